"""Bronze: the four landing streams as they came, typed, with when and from which file each row arrived."""

from pyspark import pipelines as dp
from pyspark.sql import functions as F

LANDING = "/Volumes/apparel_store/00_landing/streaming"

SALES = {
    "transaction_id": "int",
    "store_id": "int",
    "event_time": "timestamp",
    "customer_id": "int",
    "product_id": "int",
    "quantity": "int",
    "unit_price": "double",
    "total_amount": "double",
    "payment_method": "string",
    "discount_applied": "double",
    "tax_amount": "double",
}
CUSTOMERS = {
    "customer_id": "int",
    "name": "string",
    "email": "string",
    "address": "string",
    "join_date": "timestamp",
    "loyalty_points": "int",
    "phone_number": "string",
    "age": "int",
    "gender": "string",
    "last_update_time": "timestamp",
}
PRODUCTS = {
    "product_id": "int",
    "name": "string",
    "category": "string",
    "brand": "string",
    "price": "double",
    "stock_quantity": "int",
    "size": "string",
    "color": "string",
    "description": "string",
    "last_update_time": "timestamp",
}
STORES = {
    "store_id": "int",
    "name": "string",
    "address": "string",
    "manager": "string",
    "open_date": "timestamp",
    "status": "string",
    "phone_number": "string",
    "last_update_time": "timestamp",
}


def landed(stream, columns):
    """Return the new rows of one landing table with the declared types, and their origin."""
    return (
        spark.readStream.format("delta")
        .load(f"{LANDING}/{stream}")
        .select(
            *[F.col(name).cast(kind).alias(name) for name, kind in columns.items()],
            F.current_timestamp().alias("ingest_timestamp"),
            F.col("_metadata.file_path").alias("source_file_path"),
        )
    )


@dp.table(name="01_bronze.bronze_sales", comment="Sales and returns as the stores sent them")
@dp.expect_or_fail("valid_transaction_id", "transaction_id IS NOT NULL")
def bronze_sales():
    return landed("sales", SALES)


@dp.table(name="01_bronze.bronze_customers", comment="Every change of a customer")
@dp.expect_or_fail("valid_customer_id", "customer_id IS NOT NULL")
def bronze_customers():
    return landed("customers", CUSTOMERS)


@dp.table(name="01_bronze.bronze_products", comment="Every change of a product")
@dp.expect_or_fail("valid_product_id", "product_id IS NOT NULL")
def bronze_products():
    return landed("items", PRODUCTS)


@dp.table(name="01_bronze.bronze_stores", comment="Every change of a store")
@dp.expect_or_fail("valid_store_id", "store_id IS NOT NULL")
def bronze_stores():
    return landed("stores", STORES)
