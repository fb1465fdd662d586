#!/usr/bin/env bash
# run.sh - the demonstration: real services, a shop, two workers, live changes, an analyst's questions, figures.
#   ORDERS=20000 CHANGES=2000 demo/run.sh
#   demo/run.sh feed       the change feed instead: rows change in SQL, nobody sends a message
#   KEEP=1 demo/run.sh     stops before cleaning up, until you press Enter (or, without a terminal, until it is ended)
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "demo: Rust is missing: install it with rustup, then run this again" >&2; exit 2; }
echo "== Building pinion (the first time this takes a few minutes)"
stack/bin/build-tools.sh
cargo build --release -q -p pinion-worker --bin pinion
echo "== Starting the services"
case "${1:-shop}" in
  shop) exec stack/bin/with.sh rabbitmq pg elasticsearch -- demo/shop.sh ;;
  feed) exec stack/bin/with.sh rabbitmq pg kafka connect elasticsearch -- demo/feed.sh ;;
  *) echo "demo: there is no demonstration $1; there are shop and feed" >&2; exit 2 ;;
esac
