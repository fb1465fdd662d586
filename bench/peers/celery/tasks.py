"""A task a document: one query, one index call. `tasks.py COUNT` enqueues; `celery -A tasks worker` works."""

import os
import pathlib
import sys

import psycopg
from celery import Celery
from celery.signals import worker_process_init
from elasticsearch import Elasticsearch
from psycopg.rows import dict_row

SQL = (pathlib.Path(__file__).parent.parent / "row.sql").read_text().replace("$1", "%s")
QUEUE = "bench-celery"

app = Celery("orders", broker=os.environ["RABBITMQ_URL"])
app.conf.update(
    task_ignore_result=True,
    task_default_queue=QUEUE,
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
)
database = index = None


@worker_process_init.connect
def connect(**_):
    """Connections are made once for each process of the pool."""
    global database, index
    database = psycopg.connect(os.environ["REPLICA"], autocommit=True, row_factory=dict_row, prepare_threshold=1)
    index = Elasticsearch(os.environ["ELASTICSEARCH_URL"])


@app.task(name="index_order")
def index_order(order_id):
    row = database.execute(SQL, (order_id,)).fetchone()
    if row is None:
        return

    def pick(*columns, **renamed):
        return {column: row[column] for column in columns} | {name: row[column] for name, column in renamed.items()}

    document = pick("id", "status", "currency", "placed_at", "updated_at", "items") | {
        "total": float(row["total"]),
        "customer": pick("email", "country", "created_at", id="customer_id", name="customer_name", city="customer_city"),
        "merchant": pick("category", id="merchant_id", name="merchant_name", city="merchant_city"),
        "delivery": pick("rider", "dispatched_at", "delivered_at", "distance_m"),
    }
    index.index(index=os.environ["INDEX"], id=str(order_id), document=document)


if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        for order_id in range(1, int(sys.argv[1]) + 1):
            index_order.apply_async((order_id,), producer=producer)
