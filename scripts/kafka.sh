#!/usr/bin/env bash
# Prints the class path of an Apache Kafka broker and its tools, for tests: kafka.Kafka,
# org.apache.kafka.tools.ConsoleConsumer and so on. The jars come from Maven Central the
# first time, into Maven's own cache, and must have the checksums in
# test/compat/kafka/peers. Exit code 3: they cannot be had here, because there is no Maven or
# the registry is not reached.
#
#   scripts/kafka.sh            a broker
#   scripts/kafka.sh registry   prints the path of the archive of a schema registry (Apicurio)
set -euo pipefail
peers=$(cd "$(dirname "$0")/../test/compat/kafka/peers" && pwd)
repository=${TOCSIN_MAVEN_REPOSITORY:-$HOME/.m2/repository}
mkdir -p "$repository"
cd "$repository"

# complete says whether all files of a list are there.
complete() {
	local path
	while read -r _ path; do [ -f "$path" ] || return 1; done <"$1"
}

what=${1:-broker}
case $what in
broker)
	sums=$peers/kafka.sha256
	get=(-f "$peers/pom.xml" dependency:build-classpath)
	;;
registry)
	sums=$peers/registry.sha256
	get=(dependency:get -Dartifact=io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all -Dtransitive=false)
	;;
*)
	echo "kafka.sh: unknown argument $what" >&2
	exit 2
	;;
esac
if ! complete "$sums"; then
	command -v mvn >/dev/null || { echo "kafka.sh: there is no mvn" >&2; exit 3; }
	mvn -q -B -Dmaven.repo.local="$repository" "${get[@]}" >&2 || exit 3
fi
sha256sum --check --quiet "$sums" >&2
while read -r _ path; do echo "$repository/$path"; done <"$sums" | paste -sd :
