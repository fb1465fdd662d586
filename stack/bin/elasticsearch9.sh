#!/usr/bin/env bash
# elasticsearch9.sh start|stop|restart|status|wipe|url|available - Elasticsearch 9 beside 8, on port 19209; needs a JDK of version 21 or
# newer (JAVA_HOME or /usr/lib/jvm), which Debian 12 does not have: `available` says whether there is one.
set -euo pipefail
export NODE="${NODE:-elasticsearch9}" ELASTICSEARCH_VERSION="${ELASTICSEARCH9_VERSION:-9.0.4}" ELASTICSEARCH_PORT="${ELASTICSEARCH9_PORT:-19209}"
exec "$(dirname "$0")/elasticsearch.sh" "$@"
