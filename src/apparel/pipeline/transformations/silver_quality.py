"""Silver, quality: what a row must be to count. Dropped rows are gone from here on; warnings are counted and kept."""

from pyspark import pipelines as dp
from pyspark.sql import functions as F


@dp.temporary_view(comment="Customers with an id")
@dp.expect_or_drop("valid_customer_id", "customer_id IS NOT NULL")
@dp.expect_all(
    {
        "valid_email": "email IS NULL OR email LIKE '%@%.%'",
        "realistic_age": "age BETWEEN 18 AND 100",
        "realistic_loyalty_points": "loyalty_points >= 0",
        "valid_gender": "gender IN ('Male', 'Female', 'Other')",
    }
)
def customers_cleaned_stream():
    return spark.readStream.table("01_bronze.bronze_customers")


@dp.temporary_view(comment="Products with an id and a price that can be charged")
@dp.expect_all_or_drop(
    {
        "valid_product_id": "product_id IS NOT NULL",
        "valid_product_price": "price > 0 AND price < 10000",
    }
)
@dp.expect_all(
    {
        "non_negative_stock": "stock_quantity >= 0",
        "valid_category": "category IN ('Casual Wear', 'Formal Wear', 'Sportswear', 'Accessories', 'Footwear')",
        "valid_brand": "brand IS NOT NULL",
    }
)
def products_cleaned_stream():
    return spark.readStream.table("01_bronze.bronze_products")


@dp.temporary_view(comment="Stores with an id; a store without a manager has 'Unknown'")
@dp.expect_or_drop("valid_store_id", "store_id IS NOT NULL")
@dp.expect_all(
    {
        "valid_manager_name": "manager IS NOT NULL",
        "valid_status": "status IN ('Open', 'Under Renovation')",
    }
)
def stores_cleaned_stream():
    return spark.readStream.table("01_bronze.bronze_stores").withColumn(
        "manager", F.coalesce("manager", F.lit("Unknown"))
    )


@dp.temporary_view(comment="Sales and returns with their day")
@dp.expect_all(
    {
        "valid_payment_method": "payment_method IN ('Cash', 'Credit Card', 'Debit Card', 'Mobile Pay', 'Gift Card')",
        "realistic_discount": "discount_applied >= 0",
    }
)
def sales_cleaned_stream():
    return (
        spark.readStream.table("01_bronze.bronze_sales")
        .withColumn("date", F.to_date("event_time"))
        .withWatermark("event_time", "10 minutes")
    )
