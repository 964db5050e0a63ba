"""Silver, facts: what was sold and what came back."""

from pyspark import pipelines as dp
from pyspark.sql import functions as F

USABLE = {
    "valid_discount": "discount_applied >= 0",
    "valid_store_id": "store_id IS NOT NULL",
    "valid_customer_id": "customer_id IS NOT NULL",
    "valid_product_id": "product_id IS NOT NULL",
}


@dp.table(name="02_silver.silver_sales_transactions", comment="Sales: rows with a positive quantity")
@dp.expect_all_or_drop(USABLE)
def silver_sales_transactions():
    return spark.readStream.table("sales_cleaned_stream").filter("quantity > 0")


@dp.table(name="02_silver.silver_returns_transactions", comment="Returns: what customers brought back")
@dp.expect_all_or_drop(USABLE)
def silver_returns_transactions():
    return (
        spark.readStream.table("sales_cleaned_stream")
        .filter("quantity < 0")
        .withColumn("returned_quantity", F.abs("quantity"))
        .withColumn("returned_amount", F.abs("total_amount"))
        .drop("quantity", "total_amount")
    )
