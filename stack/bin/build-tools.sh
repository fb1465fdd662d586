#!/usr/bin/env bash
# build-tools.sh - what cargo needs besides Rust: make and a C++ compiler, for Kafka's client library.
set -euo pipefail
. "$(dirname "$0")/env.sh"
need make make
need c++ g++
