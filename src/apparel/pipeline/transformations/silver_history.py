"""Silver, history: how customers, products and stores were at any time (SCD type 2), and how they are now."""

from pyspark import pipelines as dp
from pyspark.sql import functions as F

NOT_STORED = ["last_update_time", "ingest_timestamp", "source_file_path"]


def keep_history(*, target, source, key, tracked, comment):
    """Declare one dimension: a change of a tracked column opens a version, the others are updated in place."""
    dp.create_streaming_table(name=target, comment=comment)
    dp.create_auto_cdc_flow(
        target=target,
        source=source,
        keys=[key],
        sequence_by=F.col("last_update_time"),
        ignore_null_updates=True,
        except_column_list=NOT_STORED,
        stored_as_scd_type=2,
        track_history_column_list=tracked,
    )


keep_history(
    target="02_silver.silver_customers",
    source="customers_cleaned_stream",
    key="customer_id",
    tracked=["name", "email", "address", "phone_number", "gender"],
    comment="Customers through time",
)
keep_history(
    target="02_silver.silver_products",
    source="products_cleaned_stream",
    key="product_id",
    tracked=["name", "category", "brand", "price", "description", "color", "size"],
    comment="Products through time",
)
keep_history(
    target="02_silver.silver_stores",
    source="stores_cleaned_stream",
    key="store_id",
    tracked=["name", "address", "manager", "status"],
    comment="Stores through time",
)


@dp.temporary_view(comment="Customers as they are now")
def silver_customers_current():
    return spark.read.table("02_silver.silver_customers").filter("__END_AT IS NULL")


@dp.temporary_view(comment="Products as they are now")
def silver_products_current():
    return spark.read.table("02_silver.silver_products").filter("__END_AT IS NULL")


@dp.temporary_view(comment="Stores as they are now")
def silver_stores_current():
    return spark.read.table("02_silver.silver_stores").filter("__END_AT IS NULL")
