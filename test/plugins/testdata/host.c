// A host of plugins that knows nothing of ours: it calls the functions of a library as Falco does,
// from several threads that each have a state of their own, and checks what comes back.
//
//	host LIBRARY CONFIG PARAMS THREADS ROUNDS
//
// It prints what it has seen, and ends with 1 at the first thing that is wrong.

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WRONG(...) (fprintf(stderr, "line %d: ", __LINE__), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

typedef struct { const char *config; void *owner; const char *(*error)(void *); void *tables; void (*log)(void *, const char *, const char *, uint32_t); } init_input;
typedef struct { uint8_t *event; uint64_t number; const char *source; } event_input;
typedef struct { uint32_t length; const void *start; } bytes;
typedef struct { void *result; uint64_t count; uint32_t id; const char *name, *key; uint64_t index; uint32_t present, type, list; } field;
typedef struct { uint32_t *starts, *lengths; } offsets;
typedef struct { void *owner, *error; uint32_t count; field *fields; void *reader[4], *ext; offsets *offsets; } extract_input;
typedef struct { const char *name; uint32_t kind; double value; uint32_t type; } metric;

static const char *(*required_api)(void), *(*get_fields)(void), *(*last_error)(void *);
static void *(*init)(init_input *, int32_t *), *(*open_)(void *, const char *, int32_t *);
static void (*destroy)(void *), (*close_)(void *, void *);
static int32_t (*next_batch)(void *, void *, uint32_t *, uint8_t ***), (*extract)(void *, event_input *, extract_input *), (*set_handler)(void *, void *, void *);
static uint32_t (*get_id)(void);
static const char *(*to_string)(void *, event_input *), *(*progress)(void *, void *, uint32_t *), *(*open_params)(void *, int32_t *);
static const char *(*init_schema)(int32_t *);
static metric *(*get_metrics)(void *, uint32_t *);

static const char *config, *params;
static int rounds, failing;
static long logged, notes;

static void take_log(void *owner, const char *component, const char *message, uint32_t severity) {
	if (owner != (void *)7 || component || !message || severity < 1 || severity > 8) WRONG("log");
	__atomic_add_fetch(&logged, 1, __ATOMIC_RELAXED);
}

static int32_t take_note(void *owner, const uint8_t *event, char *error) {
	uint16_t type;
	memcpy(&type, event + 20, 2);
	if (owner != (void *)9 || type != 402) WRONG("asynchronous event");
	(void)error;
	__atomic_add_fetch(&notes, 1, __ATOMIC_RELAXED);
	return 0;
}

static uint32_t number32(const uint8_t *at) { uint32_t n; memcpy(&n, at, 4); return n; }

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

// one asks for one field, as Falco does.
static field one(void *state, event_input *in, uint32_t id, uint32_t type, const char *name, const char *key, uint64_t index, int32_t *rc) {
	field f = {.id = id, .type = type, .name = name, .key = key, .index = index, .present = key != NULL};
	offsets o = {(uint32_t *)1, (uint32_t *)1};
	extract_input x = {.count = 1, .fields = &f, .offsets = &o};
	*rc = extract(state, in, &x);
	if (o.starts == (void *)1) WRONG("offsets of %s were left as they are", name);
	if (id == 0 && f.count && o.starts && (o.starts[0] != 38 || o.lengths[0] < 1)) WRONG("offset %u of %u bytes", o.starts[0], o.lengths[0]);
	if (id == 0 && f.count && !o.starts) WRONG("no offset");
	return f;
}

static void check_event(void *state, uint8_t *event, uint64_t n) {
	uint16_t type;
	memcpy(&type, event + 20, 2);
	if (type != 322 || number32(event + 22) != 2 || number32(event + 26) != 4 || number32(event + 34) != get_id()) WRONG("event of type %u", type);
	if (number32(event + 16) != 38 + number32(event + 30)) WRONG("length %u", number32(event + 16));
	// Not the event of the plugin, but a copy, as hosts may make one.
	static __thread uint8_t copy[1 << 16];
	memcpy(copy, event, number32(event + 16));
	event_input in = {copy, n, "everything"};
	int32_t rc;
	field f = one(state, &in, 0, 8, "e.n", NULL, 0, &rc);
	uint64_t value = f.count ? *(uint64_t *)f.result : 0;
	if (rc || f.count != 1 || value != n) WRONG("e.n of event %lu is %lu (code %d)", n, value, rc);
	f = one(state, &in, 2, 25, "e.even", NULL, 0, &rc);
	if (rc || f.count != 1 || *(uint32_t *)f.result != (n % 2 == 0)) WRONG("e.even of %lu", n);
	f = one(state, &in, 9, 40, "e.addrs", NULL, 0, &rc);
	bytes *b = f.result;
	if (rc || f.count != 3 || b[0].length != 16 || b[1].length != 4 || ((uint8_t *)b[1].start)[3] != (uint8_t)n) WRONG("e.addrs of %lu", n);
	f = one(state, &in, 6, 41, "e.net", NULL, 0, &rc);
	if (rc || f.count != 1 || ((bytes *)f.result)->length != 16) WRONG("e.net of %lu", n);
	f = one(state, &in, 12, 9, "e.none", NULL, 0, &rc);
	if (rc || f.count != 0) WRONG("e.none of %lu", n);
	f = one(state, &in, 7, 9, "e.digits", "0", 0, &rc);
	if (rc || f.count != 1 || **(char **)f.result != copy[38]) WRONG("e.digits[0] of %lu", n);
	f = one(state, &in, 14, 9, "e.bad", n % 2 ? "panic" : "error", 0, &rc);
	if (rc != 1 || !strstr(last_error(state), n % 2 ? "panic in Extract: told to panic" : "told to fail")) WRONG("e.bad: %d %s", rc, last_error(state));
	f = one(state, &in, 99, 9, "none", NULL, 0, &rc);
	if (rc != 1) WRONG("a field that there is not");

	field all[3] = {{.id = 11, .type = 9, .name = "e.nul"}, {.id = 10, .type = 8, .name = "e.numbers"}, {.id = 13, .type = 9, .name = "e.of"}};
	extract_input x = {.count = 3, .fields = all};
	rc = extract(state, &in, &x);
	char want[32];
	snprintf(want, sizeof want, "a\xEF\xBF\xBD%lu", n);
	if (rc || strcmp(*(char **)all[0].result, want) || strcmp(*(char **)all[2].result, "@everything")) WRONG("several fields of %lu: %s", n, *(char **)all[0].result);
	if (all[1].count != (n < 2000 ? n : 2000) || ((uint64_t *)all[1].result)[all[1].count - 1] != all[1].count - 1) WRONG("e.numbers of %lu", n);

	snprintf(want, sizeof want, "< of %u bytes", number32(event + 30));
	if (strcmp(to_string(state, &in), want)) WRONG("event_to_string: %s", to_string(state, &in));
	// What is no event is an error, and nothing else.
	memset(copy + 22, 0xff, 4);
	f = one(state, &in, 0, 8, "e.n", NULL, 0, &rc);
	if (rc != 1 || f.count) WRONG("a broken event has e.n");
}

static void *run(void *unused) {
	for (int round = 0; round < rounds; round++) {
		int32_t rc = 42;
		init_input in = {.config = config, .owner = (void *)7, .log = take_log};
		void *state = init(&in, &rc);
		if (failing) {
			if (rc == 0 || !state || strlen(last_error(state)) > 1023 || !strstr(last_error(state), "told to")) WRONG("init: %d %s", rc, last_error(state));
			if (!round) printf("%s\n", last_error(state));
			destroy(state);
			continue;
		}
		if (rc || !state) WRONG("init: %d %s", rc, last_error(state));
		if (set_handler(state, (void *)9, take_note)) WRONG("set_async_event_handler");
		void *stream = open_(state, "{\"count\":-1}", &rc);
		if (rc == 0 || stream || !strstr(last_error(state), "count must be")) WRONG("open: %d %s", rc, last_error(state));
		stream = open_(state, params, &rc);
		if (rc || !stream) WRONG("open: %d %s", rc, last_error(state));
		if (!strstr(open_params(state, &rc), "{\\\"count\\\":3}") || rc) WRONG("list_open_params");
		uint64_t n = 0;
		int waits = 0;
		double fastest = 1e9;
		for (rc = 0; rc != 2 && waits < 20;) {
			uint32_t count = 42;
			uint8_t **events;
			double start = now();
			rc = next_batch(state, stream, &count, &events);
			double took = now() - start;
			if (took > 10) WRONG("next_batch has taken %f s", took);
			if (rc == -1 && count == 0 && strstr(params, "stay")) {
				waits++;
				if (took < fastest) fastest = took;
			}
			if (rc != 0 && rc != -1 && rc != 2) WRONG("next_batch: %d %s", rc, last_error(state));
			if (rc == 0 && count == 0) WRONG("no events");
			for (uint32_t i = 0; i < count; i++) check_event(state, events[i], ++n);
			uint32_t percent = 77777;
			if (!progress(state, stream, &percent) || percent > 10000 || (rc == 2 && percent != 10000)) WRONG("progress %u", percent);
		}
		if (waits && (fastest < 0.02 || fastest > 0.2)) WRONG("without events it waits for %f s", fastest);
		uint32_t count = 0;
		metric *m = get_metrics(state, &count);
		if (count != 2 || strcmp(m[0].name, "given") || m[0].value != n || m[0].kind != 0 || m[0].type != 4) WRONG("metrics");
		if (set_handler(state, NULL, NULL)) WRONG("no handler");
		close_(state, stream);
		uint8_t **events;
		if (next_batch(state, stream, &count, &events) != 1 || count || strcmp(last_error(state), "the stream is closed")) WRONG("a stream that is closed");
		destroy(state);
		if (next_batch(state, stream, &count, &events) != 1) WRONG("a state that is destroyed");
		if (!last_error(state)) WRONG("no text");
		printf("%lu events\n", n);
	}
	return unused;
}

static void *find(void *library, const char *name, int optional) {
	void *f = dlsym(library, name);
	if (!f && !optional) WRONG("%s", dlerror());
	return f;
}

int main(int argc, char **argv) {
	if (argc != 6) WRONG("usage: host LIBRARY CONFIG PARAMS THREADS ROUNDS");
	void *l = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (!l) WRONG("%s", dlerror());
	config = argv[2], params = argv[3], rounds = atoi(argv[5]);
	failing = strstr(config, "fail") != NULL;
	required_api = find(l, "plugin_get_required_api_version", 0);
	get_fields = find(l, "plugin_get_fields", 0);
	last_error = find(l, "plugin_get_last_error", 0);
	init = find(l, "plugin_init", 0);
	open_ = find(l, "plugin_open", 0);
	destroy = find(l, "plugin_destroy", 0);
	close_ = find(l, "plugin_close", 0);
	next_batch = find(l, "plugin_next_batch", 0);
	extract = find(l, "plugin_extract_fields", 0);
	set_handler = find(l, "plugin_set_async_event_handler", 0);
	get_id = find(l, "plugin_get_id", 0);
	to_string = find(l, "plugin_event_to_string", 0);
	progress = find(l, "plugin_get_progress", 0);
	open_params = find(l, "plugin_list_open_params", 0);
	init_schema = find(l, "plugin_get_init_schema", 0);
	get_metrics = find(l, "plugin_get_metrics", 0);
	for (const char *none = "plugin_parse_event\0plugin_capture_open\0plugin_dump_state\0"; *none; none += strlen(none) + 1)
		if (find(l, none, 1)) WRONG("%s is there", none);
	int32_t kind = 0;
	if (!strstr(init_schema(&kind), "\"prefix\"") || kind != 1) WRONG("schema of kind %d", kind);
	printf("API %s\n%s\n", required_api(), get_fields());
	int n = atoi(argv[4]);
	pthread_t threads[n];
	for (int i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, run, NULL)) WRONG("no thread");
	for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
	printf("%ld notes, %s\n", notes, logged ? "logged" : "nothing logged");
	return 0;
}
