// What Falco's plugin API is in memory, as far as this package reads and writes it. The sizes and
// offsets are those of 64-bit systems with little-endian numbers.

#ifndef TOCSIN_NATIVEPLUGIN_ABI_H
#define TOCSIN_NATIVEPLUGIN_ABI_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef void (*log_function)(uintptr_t owner, const char *component, const char *message, uint32_t severity);
typedef int32_t (*async_function)(uintptr_t owner, const void *event, char *error);

// Owners are whatever the host wants, so they are numbers here: the garbage collector of Go must
// never see what is no address as one.

struct init_input {
	const char *config;
	uintptr_t owner;
	void *owner_error;
	void *tables;
	log_function log; // since 3.3.0
};

struct event_input {
	uint8_t *event;
	uint64_t number;
	const char *source;
};

struct bytes {
	uint32_t length;
	const void *start;
};

struct extract_field {
	void *result;
	uint64_t count;
	uint32_t id;
	const char *name;
	const char *key;
	uint64_t index;
	uint32_t present;
	uint32_t type;
	uint32_t list;
};

struct offsets { // since 3.11.0
	uint32_t *starts;
	uint32_t *lengths;
};

struct extract_input {
	uintptr_t owner;
	void *owner_error;
	uint32_t count;
	struct extract_field *fields;
	void *table_reader[4];
	void *table_reader_ext;
	struct offsets *offsets; // since 3.11.0
};

struct config_input {
	const char *config;
};

struct metric {
	const char *name;
	uint32_t kind;
	double value;
	uint32_t value_type;
};

#define HAS_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), "size of " #type)
#define IS_AT(type, member, offset) _Static_assert(offsetof(struct type, member) == (offset), "offset of " #member " in " #type)

_Static_assert(sizeof(void *) == 8, "size of addresses");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "order of bytes");
HAS_SIZE(init_input, 40);
IS_AT(init_input, config, 0);
IS_AT(init_input, owner, 8);
IS_AT(init_input, owner_error, 16);
IS_AT(init_input, tables, 24);
IS_AT(init_input, log, 32);
HAS_SIZE(event_input, 24);
IS_AT(event_input, event, 0);
IS_AT(event_input, number, 8);
IS_AT(event_input, source, 16);
HAS_SIZE(bytes, 16);
IS_AT(bytes, length, 0);
IS_AT(bytes, start, 8);
HAS_SIZE(extract_field, 64);
IS_AT(extract_field, result, 0);
IS_AT(extract_field, count, 8);
IS_AT(extract_field, id, 16);
IS_AT(extract_field, name, 24);
IS_AT(extract_field, key, 32);
IS_AT(extract_field, index, 40);
IS_AT(extract_field, present, 48);
IS_AT(extract_field, type, 52);
IS_AT(extract_field, list, 56);
HAS_SIZE(offsets, 16);
IS_AT(offsets, starts, 0);
IS_AT(offsets, lengths, 8);
HAS_SIZE(extract_input, 80);
IS_AT(extract_input, owner, 0);
IS_AT(extract_input, owner_error, 8);
IS_AT(extract_input, count, 16);
IS_AT(extract_input, fields, 24);
IS_AT(extract_input, table_reader, 32);
IS_AT(extract_input, table_reader_ext, 64);
IS_AT(extract_input, offsets, 72);
HAS_SIZE(config_input, 8);
HAS_SIZE(metric, 32);
IS_AT(metric, name, 0);
IS_AT(metric, kind, 8);
IS_AT(metric, value, 16);
IS_AT(metric, value_type, 24);

static inline void call_log(log_function f, uintptr_t owner, const char *message, uint32_t severity) {
	f(owner, NULL, message, severity);
}

static inline int32_t call_async(async_function f, uintptr_t owner, const void *event, char *error) {
	return f(owner, event, error);
}

#endif
