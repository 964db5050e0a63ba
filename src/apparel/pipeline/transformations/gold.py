"""Gold: sales with the names of who, what and where, and three answers that analysts ask for."""

from pyspark import pipelines as dp
from pyspark.sql import functions as F


@dp.table(
    name="03_gold.denormalized_sales_facts",
    comment="Sales with store, customer and product as they were known on arrival",
)
def denormalized_sales_facts():
    sales = spark.readStream.table("02_silver.silver_sales_transactions")
    stores = spark.read.table("silver_stores_current")
    customers = spark.read.table("silver_customers_current")
    products = spark.read.table("silver_products_current")
    return (
        sales.join(stores, "store_id", "left")
        .join(customers, "customer_id", "left")
        .join(products, "product_id", "left")
        .select(
            sales.transaction_id,
            sales.event_time,
            sales.customer_id,
            customers.name.alias("customer_name"),
            sales.product_id,
            products.name.alias("product_name"),
            products.category.alias("product_category"),
            sales.store_id,
            stores.name.alias("store_name"),
            sales.quantity,
            sales.unit_price,
            sales.total_amount,
            sales.payment_method,
            sales.discount_applied,
            sales.tax_amount,
        )
    )


@dp.materialized_view(name="03_gold.gold_daily_sales_by_store", comment="What each store sold on each day (UTC)")
def gold_daily_sales_by_store():
    return (
        spark.read.table("03_gold.denormalized_sales_facts")
        .groupBy(F.window("event_time", "1 day").alias("day"), "store_id", "store_name")
        .agg(
            F.round(F.sum("total_amount"), 2).alias("total_revenue"),
            F.count("*").alias("total_transactions"),
            F.sum("quantity").alias("total_items_sold"),
            F.countDistinct("customer_id").alias("unique_customers"),
        )
        .select(
            F.col("day.start").cast("date").alias("sale_date"),
            "store_id",
            "store_name",
            "total_revenue",
            "total_transactions",
            "total_items_sold",
            "unique_customers",
        )
    )


@dp.materialized_view(name="03_gold.gold_product_performance", comment="What each product brought in")
def gold_product_performance():
    return (
        spark.read.table("03_gold.denormalized_sales_facts")
        .groupBy("product_id", "product_name", "product_category")
        .agg(
            F.round(F.sum("total_amount"), 2).alias("total_revenue"),
            F.sum("quantity").alias("total_quantity_sold"),
            F.count("*").alias("total_orders"),
        )
    )


@dp.materialized_view(name="03_gold.gold_customer_lifetime_value", comment="What each customer has spent so far")
def gold_customer_lifetime_value():
    return (
        spark.read.table("03_gold.denormalized_sales_facts")
        .groupBy("customer_id", "customer_name")
        .agg(
            F.round(F.sum("total_amount"), 2).alias("total_spend"),
            F.countDistinct("transaction_id").alias("total_orders"),
            F.min("event_time").cast("date").alias("first_purchase_date"),
            F.max("event_time").cast("date").alias("last_purchase_date"),
            F.round(F.avg("total_amount"), 2).alias("avg_order_value"),
        )
    )
