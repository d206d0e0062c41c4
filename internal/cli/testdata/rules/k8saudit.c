// A native plugin for tests, with the name, the id and some of the fields of Falco's k8saudit. Its
// stream is the lines of the file that it is opened with.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, FAILED = 1, END = 2 };

#define ID 1u
#define MOST 256
#define TEXT 4096

typedef struct __attribute__((packed)) {
	uint64_t ts, tid;
	uint32_t len;
	uint16_t type;
	uint32_t nparams;
} header;

typedef struct {
	header *evt;
	uint64_t num;
	const char *source;
} event_input;

typedef struct {
	void *res;
	uint64_t res_len;
	uint32_t id;
	const char *name, *key;
	uint64_t index;
	uint32_t present, type, list;
} field;

typedef struct {
	void *owner, *owner_error;
	uint32_t n;
	field *fields;
} extract_input;

typedef struct {
	char error[256];
	// What was extracted last.
	char text[64][TEXT];
	const char *values[64][16];
} state;

typedef struct {
	FILE *in;
	uint8_t *events[MOST];
} instance;

const char *plugin_get_required_api_version(void) { return "3.0.0"; }
const char *plugin_get_name(void) { return "k8saudit"; }
const char *plugin_get_description(void) { return "audit events of Kubernetes, for tests"; }
const char *plugin_get_contact(void) { return "nobody"; }
const char *plugin_get_version(void) { return "0.1.0"; }
uint32_t plugin_get_id(void) { return ID; }
const char *plugin_get_event_source(void) { return "k8s_audit"; }

void *plugin_init(const void *in, int *rc) {
	(void)in;
	*rc = OK;
	return calloc(1, sizeof(state));
}

void plugin_destroy(state *s) { free(s); }
const char *plugin_get_last_error(state *s) { return s->error; }

instance *plugin_open(state *s, const char *params, int *rc) {
	instance *i = calloc(1, sizeof *i);
	*rc = OK;
	if (!(i->in = fopen(params, "r"))) {
		snprintf(s->error, sizeof s->error, "no such file");
		*rc = FAILED;
	}
	return i;
}

void plugin_close(state *s, instance *i) {
	(void)s;
	if (i->in) fclose(i->in);
	for (int n = 0; n < MOST; n++) free(i->events[n]);
	free(i);
}

// value returns what is behind a key and how long it is, without quotes.
static const char *value(const char *json, const char *end, const char *key, size_t *len) {
	char quoted[64];
	int n = snprintf(quoted, sizeof quoted, "\"%s\":", key);
	const char *at = memmem(json, end - json, quoted, n);
	if (!at) return NULL;
	for (at += n; at < end && *at == ' ';) at++;
	const char *stop = at;
	if (at < end && *at == '"') {
		at++;
		stop = memchr(at, '"', end - at);
	} else {
		while (stop < end && strchr("0123456789", *stop)) stop++;
	}
	if (!stop) return NULL;
	*len = stop - at;
	return at;
}

// when returns the time of an event in nanoseconds.
static uint64_t when(const char *line, size_t len) {
	size_t n;
	const char *at = value(line, line + len, "stageTimestamp", &n);
	struct tm tm = {0};
	if (!at) return UINT64_MAX;
	const char *rest = strptime(at, "%Y-%m-%dT%H:%M:%S", &tm);
	uint64_t nanos = 0, unit = 100000000;
	if (rest && *rest == '.')
		for (rest++; *rest >= '0' && *rest <= '9' && unit; rest++, unit /= 10) nanos += (*rest - '0') * unit;
	return (uint64_t)timegm(&tm) * 1000000000 + nanos;
}

int plugin_next_batch(state *s, instance *i, uint32_t *n, uint8_t ***out) {
	(void)s;
	char *line = NULL;
	size_t size = 0;
	ssize_t len;
	*n = 0;
	*out = i->events;
	while (*n < MOST && (len = getline(&line, &size, i->in)) > 0) {
		if (line[len - 1] == '\n') len--;
		uint8_t *e = realloc(i->events[*n], sizeof(header) + 12 + len);
		uint32_t lengths[2] = {4, len}, id = ID;
		*(header *)e = (header){when(line, len), UINT64_MAX, sizeof(header) + 12 + len, 322, 2};
		memcpy(e + sizeof(header), lengths, 8);
		memcpy(e + sizeof(header) + 8, &id, 4);
		memcpy(e + sizeof(header) + 12, line, len);
		i->events[(*n)++] = e;
	}
	free(line);
	return *n ? OK : END;
}

static const char *keys[] = {"verb", "username", "requestURI", "code", "subresource", "image"};

const char *plugin_get_fields(void) {
	return "[{\"type\":\"string\",\"name\":\"ka.verb\",\"desc\":\"what is done\"},"
	       "{\"type\":\"string\",\"name\":\"ka.user.name\",\"desc\":\"who does it\"},"
	       "{\"type\":\"string\",\"name\":\"ka.uri\",\"desc\":\"where\"},"
	       "{\"type\":\"string\",\"name\":\"ka.response.code\",\"desc\":\"what came of it\"},"
	       "{\"type\":\"string\",\"name\":\"ka.target.subresource\",\"desc\":\"a part of it\"},"
	       "{\"type\":\"string\",\"isList\":true,\"name\":\"ka.req.pod.containers.image\",\"arg\":{\"isIndex\":true},\"desc\":\"images\"}]";
}

int plugin_extract_fields(state *s, const event_input *e, const extract_input *in) {
	uint32_t len;
	memcpy(&len, (uint8_t *)e->evt + sizeof(header) + 4, 4);
	const char *json = (const char *)e->evt + sizeof(header) + 12, *end = json + len;
	for (uint32_t i = 0; i < in->n && i < 64; i++) {
		field *f = &in->fields[i];
		char *to = s->text[i], *last = to + TEXT - 1;
		const char *from = json;
		f->res = s->values[i];
		for (f->res_len = 0; f->res_len < 16;) {
			size_t n;
			const char *at = value(from, end, keys[f->id], &n);
			if (!at || to + n >= last) break;
			s->values[i][f->res_len++] = memcpy(to, at, n);
			to[n] = 0;
			to += n + 1;
			from = at + n;
			if (!f->list) break;
		}
	}
	return OK;
}
