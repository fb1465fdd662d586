#!/usr/bin/env bash
# run.sh - the demonstration: real services, a shop, two workers, live changes, an analyst's questions, figures.
#   ORDERS=20000 CHANGES=2000 demo/run.sh
#   KEEP=1 demo/run.sh     stops before cleaning up, until you press Enter (or, without a terminal, until it is ended)
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "demo: Rust is missing: install it with rustup, then run this again" >&2; exit 2; }
echo "== Building pinion (the first time this takes a few minutes)"
stack/bin/build-tools.sh
cargo build --release -q -p pinion-worker --bin pinion
echo "== Starting RabbitMQ, PostgreSQL with a replica, and Elasticsearch"
exec stack/bin/with.sh rabbitmq pg elasticsearch -- demo/shop.sh
