#!/usr/bin/env bash
# Prints the path of the jar of a Zipkin server, for tests. It comes from Maven Central
# the first time, into Maven's own cache, and must have the checksum below. Exit code 3:
# it cannot be had here, because there is no Maven or the registry is not reached.
set -euo pipefail
version=3.5.1
sum=7956e7f2c64b7073e1362b81e697fceb5fe61e121ad3cb48d545461026964b0f

repository=${TOCSIN_MAVEN_REPOSITORY:-$HOME/.m2/repository}
jar=$repository/io/zipkin/zipkin-server/$version/zipkin-server-$version-slim.jar
if [ ! -f "$jar" ]; then
	command -v mvn >/dev/null || { echo "zipkin.sh: there is no mvn" >&2; exit 3; }
	mvn -q -B -Dmaven.repo.local="$repository" dependency:get \
		-Dartifact=io.zipkin:zipkin-server:$version:jar:slim -Dtransitive=false >&2 || exit 3
fi
echo "$sum  $jar" | sha256sum --check --quiet >&2
echo "$jar"
