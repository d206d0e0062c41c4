// Package kafka tries the Kafka sink with a real Apache Kafka broker and a real schema registry
// (Apicurio, by its API of Confluent's): processes of Java, whose jars scripts/kafka.sh gets from
// Maven Central. What the sink wrote is read back with a Kafka client, and decoded with
// libraries that the sink does not use, by the schemas that the registry has.
//
// It is a module of its own so that the hub does not depend on these libraries. Without Java
// or Maven Central its tests are skipped, and say so.
package kafka
