// A Falco plugin for tests that behaves as its config and its open params say, badly if they
// do. What cannot be chosen at run time is chosen by macros, see below.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef API_VERSION
#define API_VERSION "3.12.0"
#endif
#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION "1.2.3"
#endif
#ifndef PLUGIN_NAME
#define PLUGIN_NAME "testbed"
#endif
#ifndef PLUGIN_ID
#define PLUGIN_ID 1073742001u
#endif
#ifndef PLUGIN_SOURCE
#define PLUGIN_SOURCE "test_source"
#endif

enum { OK = 0, FAILED = 1, LATER = -1, END = 2, UNSUPPORTED = 3 };

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
	uint32_t len;
	const void *ptr;
} buffer;

typedef struct {
	void *(*list)(void *, uint32_t *);
	void *(*get)(void *, const char *, int);
	int (*add)(void *, const void *);
	void *fields[3];
	void *(**fields_ext)(void *, uint32_t *);
	void **reader_ext;
	void **writer_ext;
} tables;

typedef struct {
	const char *config;
	void *owner;
	const char *(*owner_error)(void *);
	tables *tables;
	void (*log)(void *, const char *, const char *, int);
} init_input;

typedef struct {
	void *res;
	uint64_t res_len;
	uint32_t id;
	const char *name, *key;
	uint64_t index;
	uint32_t present, type, list;
} field;

typedef struct {
	uint32_t *start, *length;
} offsets;

typedef struct {
	void *owner;
	void *owner_error;
	uint32_t n;
	field *fields;
	void *reader[4];
	void *reader_ext;
	offsets *offsets;
} extract_input;

typedef struct {
	const char *name;
	int kind;
	uint64_t value;
	int type;
} metric;

typedef int (*handler)(void *, const header *, char *);

typedef struct state {
	char config[4096], error[2048];
	init_input in;
	char *text; // what was returned last; spoilt by the next call
	metric metrics[7];
	uint64_t calls;
	handler handle;
	void *handler_owner;
	pthread_t thread;
	volatile int stop;
	int fields; // are traced
} state;

typedef struct {
	char mode[64];
	uint64_t count, size, batch, sent, calls;
	uint8_t *memory;
	header **list;
} instance;

// trace notes what is called, in the file that the variable TESTBED_TRACE names.
static void trace(const char *what) {
	const char *file = getenv("TESTBED_TRACE");
	if (!file) return;
	FILE *f = fopen(file, "a");
	if (!f) return;
	fprintf(f, "%s\n", what);
	fclose(f);
}

#ifdef UNDEFINED
void nobody_has_this(void);
void plugin_uses_it(void) { nobody_has_this(); }
#endif

#ifdef CONSTRUCTOR
// What is done while the library is loaded.
__attribute__((constructor)) static void constructor(void) {
	CONSTRUCTOR;
}
#endif

static char *spoil(state *s, size_t size) {
	if (s->text) {
		memset(s->text, '#', strlen(s->text));
		free(s->text);
	}
	return s->text = calloc(1, size + 1);
}

static uint64_t option(const char *from, const char *name, uint64_t otherwise) {
	const char *at = strstr(from, name);
	return at ? strtoull(at + strlen(name), NULL, 10) : otherwise;
}

#ifndef NO_REQUIRED_API
const char *plugin_get_required_api_version(void) { return API_VERSION; }
#endif
#ifdef NO_NAME
static const char *plugin_get_name(void) { return ""; }
#else
const char *plugin_get_name(void) { return PLUGIN_NAME; }
#endif
const char *plugin_get_description(void) { return "behaves as it is told"; }
const char *plugin_get_contact(void) { return "nobody"; }
const char *plugin_get_version(void) { return PLUGIN_VERSION; }
#ifndef NO_ID
uint32_t plugin_get_id(void) { return PLUGIN_ID; }
#endif
#ifndef NO_SOURCE
const char *plugin_get_event_source(void) { return PLUGIN_SOURCE; }
#endif

#ifdef SCHEMA
const char *plugin_get_init_schema(int *type) {
	*type = 1;
	return SCHEMA;
}
#endif

static uint32_t use_tables(state *s) {
	tables *t = s->in.tables;
	uint32_t n = 7, m = 7;
	if (!t || !t->fields_ext || !t->reader_ext || !t->writer_ext) return 1;
	if (!t->list(s->in.owner, &n) || n != 0) return 2;
	if (t->get(s->in.owner, "threads", 3)) return 3;
	if (!s->in.owner_error(s->in.owner)) return 4;
	t->fields_ext[0](NULL, &m);
	if (m != 0) return 5;
	for (int i = 0; i < 3; i++)
		if (!t->fields[i] || !t->fields_ext[i]) return 6;
	for (int i = 0; i < 6; i++)
		if (!t->reader_ext[i] || !t->writer_ext[i]) return 7;
	if (((int (*)(void *))t->writer_ext[0])(NULL) == OK) return 8;
	return t->add(s->in.owner, NULL) == OK ? 0 : 9;
}

void *plugin_init(const init_input *in, int *rc) {
	const char *config = in->config;
	*rc = OK;
	if (strstr(config, "init-null")) return NULL;
	if (strstr(config, "init-crash")) *(volatile int *)8 = 1;
	if (strstr(config, "init-hang")) pause();
	const char *wait = strstr(config, "init-wait ");
	for (int i = 0; wait && i < 10000 && access(wait + strlen("init-wait "), F_OK); i++) usleep(10000);
	trace("init");
	state *s = calloc(1, sizeof *s);
	s->fields = getenv("TESTBED_FIELDS") != NULL;
	s->in = *in;
	snprintf(s->config, sizeof s->config, "%s", config);
	if (strstr(config, "init-fail")) {
		*rc = FAILED;
		snprintf(s->error, sizeof s->error, "told to fail");
	}
	if (strstr(config, "say-name")) { // as another library would say it, if that were in the way
		*rc = FAILED;
		snprintf(s->error, sizeof s->error, "my name is %s", plugin_get_name());
	}
	if (strstr(config, "init-lost")) {
		*rc = FAILED;
		free(s);
		return NULL;
	}
	if (strstr(config, "long-error")) {
		*rc = FAILED;
		memset(s->error, 'e', sizeof s->error - 1);
	}
	if (strstr(config, "tables")) {
		uint32_t problem = use_tables(s);
		if (problem) {
			*rc = FAILED;
			snprintf(s->error, sizeof s->error, "tables: %u", problem);
		}
	}
	if (strstr(config, "log")) {
		in->log(in->owner, "part", "a warning \xff", 4);
		in->log(in->owner, NULL, "a detail", 7);
	}
	return s;
}

#ifndef NO_DESTROY
void plugin_destroy(state *s) {
	trace("destroy");
	if (strstr(s->config, "destroy-hang")) pause();
	spoil(s, 0);
	free(s->text);
	free(s);
}
#endif

const char *plugin_get_last_error(state *s) {
	char *text = spoil(s, sizeof s->error);
	memcpy(text, s->error, strlen(s->error));
	return text;
}

#ifndef NO_OPEN
instance *plugin_open(state *s, const char *params, int *rc) {
	*rc = OK;
	s->error[0] = 0;
	if (strstr(params, "open-fail")) {
		snprintf(s->error, sizeof s->error, "no such stream");
		*rc = FAILED;
		return NULL;
	}
	trace("open");
	instance *i = calloc(1, sizeof *i);
	sscanf(params, "%63[^;]", i->mode);
	i->count = option(params, "count=", 10);
	i->size = option(params, "size=", 16);
	i->batch = option(params, "batch=", 4);
	size_t event = sizeof(header) + 12 + i->size;
	i->memory = malloc(i->batch * event);
	i->list = malloc(i->batch * sizeof *i->list);
	return i;
}
#endif

#ifndef NO_CLOSE
void plugin_close(state *s, instance *i) {
	(void)s;
	trace("close");
	if (!strcmp(i->mode, "close-hang")) pause();
	memset(i->memory, 0xEE, i->batch * (sizeof(header) + 12 + i->size));
	free(i->memory);
	free(i->list);
	free(i);
}
#endif

static int is(instance *i, const char *mode) { return !strcmp(i->mode, mode); }

#ifndef NO_NEXT_BATCH
int plugin_next_batch(state *s, instance *i, uint32_t *n, header ***out) {
	s->calls++;
	i->calls++;
	*n = 0;
	if (is(i, "zero")) return OK;
	if (is(i, "idle")) return LATER;
	if (is(i, "block")) {
		usleep(2000);
		return LATER;
	}
	if (is(i, "crash")) *(volatile int *)8 = 1;
	if (is(i, "hang")) pause();
	if (is(i, "stubborn")) {
		signal(SIGTERM, SIG_IGN);
		for (;;) pause();
	}
	if (is(i, "exit")) exit(3);
	if (is(i, "abort")) abort();
	if (is(i, "flood")) { // megabytes without an end of a line
		char text[65536];
		memset(text, 'f', sizeof text);
		for (int n = 0; n < 200 && write(2, text, sizeof text) > 0; n++)
			;
	}
	if (is(i, "leave")) { // somebody who has the pipes, and a session of its own
		fflush(NULL);
		pid_t pid = fork();
		if (pid == 0) {
			setsid();
			for (;;) pause();
		}
		char number[32];
		snprintf(number, sizeof number, "left %d", (int)pid);
		trace(number);
	}
	if (is(i, "null-list")) {
		*n = 3;
		*out = NULL;
		return OK;
	}
	if (is(i, "many")) {
		*n = UINT32_MAX;
		*out = i->list;
		return OK;
	}
	if (is(i, "fail")) {
		snprintf(s->error, sizeof s->error, "the stream broke");
		return FAILED;
	}
	if (is(i, "slow")) usleep(5000);
	if (is(i, "silent-fail")) return FAILED;
	if (is(i, "unsupported")) return UNSUPPORTED;
	if (is(i, "unknown")) return 42;
	size_t event = sizeof(header) + 12 + i->size;
	while (*n < i->batch && i->sent < i->count) {
		uint8_t *at = i->memory + *n * event;
		header *h = (header *)at;
		i->list[*n] = h;
		*h = (header){.ts = i->sent + 1, .tid = 5, .len = event, .type = 322, .nparams = 2};
		uint32_t lengths[2] = {4, i->size}, id = PLUGIN_ID;
		if (is(i, "no-id")) id = 0;
		if (is(i, "no-time")) h->ts = UINT64_MAX;
		if (is(i, "zero-time")) h->ts = 0;
		if (i->sent == 2) { // the third
			if (is(i, "foreign-id")) id = 12;
			if (is(i, "bad-type")) h->type = 402;
			if (is(i, "bad-nparams")) h->nparams = 3;
			if (is(i, "bad-length")) h->len = event - 1;
			if (is(i, "tiny")) h->len = 5;
			if (is(i, "bad-param")) lengths[1] = 0xFFFFFFFF;
			if (is(i, "null-event")) i->list[*n] = NULL;
		}
		memcpy(at + sizeof *h, lengths, 8);
		memcpy(at + sizeof *h + 8, &id, 4);
		memset(at + sizeof *h + 12, 'a' + i->sent % 26, i->size);
		i->sent++;
		++*n;
	}
	*out = i->list;
	if (i->sent < i->count) return is(i, "later") ? LATER : OK;
	if (is(i, "fail-at-end")) {
		snprintf(s->error, sizeof s->error, "broke at the end");
		return FAILED;
	}
	if (is(i, "stay")) {
		if (*n) return OK;
		usleep(2000);
		return LATER;
	}
	return END;
}
#endif

const char *plugin_list_open_params(state *s, int *rc) {
	*rc = OK;
	if (strstr(s->config, "params-fail")) {
		snprintf(s->error, sizeof s->error, "no params today");
		*rc = FAILED;
		return NULL;
	}
	if (strstr(s->config, "params-null")) return NULL;
	if (strstr(s->config, "params-nonsense")) return "{";
	if (strstr(s->config, "params-bad")) return "[{\"value\":\"\"}]";
	return "[{\"value\":\"count;count=5\",\"desc\":\"five events\"},{\"value\":\"idle\",\"separator\":\",\"}]";
}

const char *plugin_get_progress(state *s, instance *i, uint32_t *percent) {
	*percent = i->count ? (uint32_t)(i->sent * 10000 / i->count) : 0;
	if (is(i, "progress-wild")) {
		*percent = UINT32_MAX;
		return NULL;
	}
	char *text = spoil(s, 64);
	snprintf(text, 64, "%llu of %llu", (unsigned long long)i->sent, (unsigned long long)i->count);
	return text;
}

static const uint8_t *payload(const event_input *e, uint32_t *len) {
	memcpy(len, (uint8_t *)e->evt + sizeof(header) + 4, 4);
	return (uint8_t *)e->evt + sizeof(header) + 12;
}

#ifndef NO_EVENT_TO_STRING
const char *plugin_event_to_string(state *s, const event_input *e) {
	if (strstr(s->config, "string-null")) return NULL;
	uint32_t len;
	const uint8_t *data = payload(e, &len);
	char *text = spoil(s, len + 200);
	snprintf(text, len + 200, "%s #%llu: %.*s", e->source, (unsigned long long)e->num, (int)len, data);
	return text;
}
#endif

#ifdef STATIC_FIELDS
#define FIELDS STATIC_FIELDS
#else
#define STRING(n) ",{\"name\":\"t.s" #n "\",\"type\":\"string\",\"desc\":\"text\"}"
#define FIELDS \
	"[{\"name\":\"t.u64\",\"type\":\"uint64\",\"desc\":\"length\"}" \
	",{\"name\":\"t.str\",\"type\":\"string\",\"desc\":\"payload\",\"display\":\"Payload\",\"addOutput\":true,\"properties\":[\"info\"]}" \
	",{\"name\":\"t.rel\",\"type\":\"reltime\",\"desc\":\"a while\"}" \
	",{\"name\":\"t.abs\",\"type\":\"abstime\",\"desc\":\"time\"}" \
	",{\"name\":\"t.bool\",\"type\":\"bool\",\"desc\":\"is odd\"}" \
	",{\"name\":\"t.ip4\",\"type\":\"ipaddr\",\"desc\":\"address\"}" \
	",{\"name\":\"t.ip6\",\"type\":\"ipaddr\",\"desc\":\"address\"}" \
	",{\"name\":\"t.net\",\"type\":\"ipnet\",\"desc\":\"network\"}" \
	",{\"name\":\"t.strs\",\"type\":\"string\",\"isList\":true,\"desc\":\"texts\"}" \
	",{\"name\":\"t.nums\",\"type\":\"uint64\",\"isList\":true,\"desc\":\"numbers\",\"arg\":{\"isIndex\":true}}" \
	",{\"name\":\"t.key\",\"type\":\"string\",\"desc\":\"key\",\"arg\":{\"isRequired\":true,\"isKey\":true}}" \
	",{\"name\":\"t.both\",\"type\":\"string\",\"desc\":\"key or index\",\"arg\":{\"isKey\":true,\"isIndex\":true}}" \
	",{\"name\":\"t.none\",\"type\":\"string\",\"desc\":\"nothing\"}" \
	",{\"name\":\"t.fail\",\"type\":\"string\",\"desc\":\"an error\"}" \
	",{\"name\":\"t.bools\",\"type\":\"bool\",\"isList\":true,\"desc\":\"bools\"}" \
	",{\"name\":\"t.ips\",\"type\":\"ipaddr\",\"isList\":true,\"desc\":\"addresses\"}" \
	",{\"name\":\"t.reuse\",\"type\":\"string\",\"desc\":\"in shared memory\",\"arg\":{\"isKey\":true}}" \
	",{\"name\":\"t.null\",\"type\":\"string\",\"desc\":\"null\"}" \
	",{\"name\":\"t.huge\",\"type\":\"uint64\",\"isList\":true,\"desc\":\"a lying length\"}" \
	",{\"name\":\"t.badip\",\"type\":\"ipaddr\",\"desc\":\"an address of 5 bytes\"}" \
	STRING(0) STRING(1) STRING(2) STRING(3) STRING(4) STRING(5) STRING(6) STRING(7) STRING(8) STRING(9) \
	",{\"name\":\"t.mega\",\"type\":\"string\",\"desc\":\"that many MB\",\"arg\":{\"isIndex\":true}}" \
	",{\"name\":\"t.text\",\"type\":\"string\",\"desc\":\"in a shared buffer\",\"arg\":{\"isKey\":true}}]"
#endif

#ifndef NO_FIELDS
const char *plugin_get_fields(void) { return FIELDS; }
#endif

#ifdef EXTRACT_SOURCES
const char *plugin_get_extract_event_sources(void) { return EXTRACT_SOURCES; }
#endif

#ifdef EXTRACT_TYPES
const uint16_t *plugin_get_extract_event_types(uint32_t *n, state *s) {
	static const uint16_t types[] = {EXTRACT_TYPES};
	*n = s ? sizeof types / sizeof *types : 0;
	return types;
}
#endif

#ifdef BAD_EXTRACT_TYPES
const uint16_t *plugin_get_extract_event_types(uint32_t *n, state *s) {
	(void)s;
	*n = UINT32_MAX;
	return (const uint16_t *)n;
}
#endif

#ifndef NO_EXTRACT
typedef union {
	uint64_t u[3];
	const char *s[3];
	uint32_t b[3];
	buffer bytes[2];
} slot;

// trace_fields notes which fields are asked for, in the file that TESTBED_FIELDS names.
static void trace_fields(const extract_input *in) {
	const char *file = getenv("TESTBED_FIELDS");
	if (!file) return;
	FILE *f = fopen(file, "a");
	if (!f) return;
	for (uint32_t i = 0; i < in->n; i++) fprintf(f, "%s ", in->fields[i].name);
	fprintf(f, "\n");
	fclose(f);
}

int plugin_extract_fields(state *s, const event_input *e, const extract_input *in) {
	if (s->fields) trace_fields(in);
	static __thread slot slots[64];
	static __thread char texts[64][256];
	static __thread char *copy, *mega;
	static __thread const char *shared;
	static __thread char shared_text[64];
	static __thread uint32_t start[2], length[2];
	(void)s;
	uint32_t len;
	const uint8_t *data = payload(e, &len);
	for (uint32_t i = 0; i < in->n && i < 64; i++) {
		field *f = &in->fields[i];
		slot *o = &slots[i];
		char *text = texts[i];
		f->res = o;
		f->res_len = 1;
		start[0] = length[0] = 0;
		switch (f->id) {
		case 0: o->u[0] = len; break;
		case 1:
			free(copy);
			copy = calloc(1, len + 1);
			memcpy(copy, data, len);
			o->s[0] = copy;
			start[0] = 38, length[0] = len;
			break;
		case 2: o->u[0] = 1500; break;
		case 3: o->u[0] = e->evt->ts; break;
		case 4: o->b[0] = len & 1 ? 256 : 0; break;
		case 5: o->bytes[0] = (buffer){4, "\x7f\0\0\1"}; break;
		case 6: o->bytes[0] = (buffer){16, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1"}; break;
		case 7: o->bytes[0] = (buffer){8, "\x0a\0\0\0\xff\0\0\0"}; break;
		case 8:
			o->s[0] = "one", o->s[1] = "", o->s[2] = "three";
			f->res_len = 3;
			break;
		case 9:
			o->u[0] = f->present ? f->index : 99, o->u[1] = f->present;
			f->res_len = 2;
			break;
		case 10:
		case 11:
			snprintf(text, 256, "key=%s index=%llu present=%u name=%s list=%u type=%u", f->key ? f->key : "NULL", (unsigned long long)f->index, f->present, f->name, f->list, f->type);
			o->s[0] = text;
			break;
		case 12: f->res_len = 0; break;
		case 13: return FAILED;
		case 14:
			o->b[0] = 1, o->b[1] = 0, o->b[2] = 1;
			f->res_len = 3;
			break;
		case 15:
			o->bytes[0] = (buffer){4, "\1\2\3\4"}, o->bytes[1] = (buffer){16, "0123456789abcdef"};
			f->res_len = 2;
			break;
		case 16:
			snprintf(shared_text, 64, "shared %s", f->key ? f->key : "");
			shared = shared_text;
			f->res = &shared;
			break;
		case 17: o->s[0] = NULL; break;
		case 18: f->res_len = UINT64_MAX; break;
		case 19: o->bytes[0] = (buffer){5, "12345"}; break;
		case 30:
			free(mega);
			mega = malloc(f->index * 1000000 + 1);
			memset(mega, 'm', f->index * 1000000);
			mega[f->index * 1000000] = 0;
			o->s[0] = mega;
			break;
		case 31:
			snprintf(shared_text, 64, "text %s", f->key ? f->key : "");
			o->s[0] = shared_text;
			break;
		default:
			snprintf(text, 256, "text of field %u", f->id);
			o->s[0] = text;
		}
	}
	if (in->offsets) *in->offsets = (offsets){start, length};
	return OK;
}
#endif

#ifdef ASYNC
const char *plugin_get_async_events(void) { return "[\"tick\",\"tock\"]"; }
const char *plugin_get_async_event_sources(void) { return "[]"; }

static uint64_t async_refused;

static void *ticker(void *arg) {
	state *s = arg;
	uint64_t n = option(s->config, "ticks=", 100);
	for (uint64_t i = 0; i < n && !s->stop; i++) {
		uint8_t memory[128] = {0};
		const char *name = i % 2 ? "tock" : "tick";
		char error[1024] = "";
		if (i == 2 && strstr(s->config, "bad-name")) name = "bang";
		uint32_t lengths[3] = {4, strlen(name) + 1, 4}, id = 0, number = i;
		header h = {.ts = UINT64_MAX, .tid = 3, .len = sizeof h + 12 + 4 + strlen(name) + 1 + 4, .type = 402, .nparams = 3};
		uint8_t *at = memory;
		memcpy(at, &h, sizeof h), at += sizeof h;
		memcpy(at, lengths, 12), at += 12;
		memcpy(at, &id, 4), at += 4;
		strcpy((char *)at, name), at += strlen(name) + 1;
		memcpy(at, &number, 4);
		if (s->handle(s->handler_owner, (header *)memory, error) != OK) {
			s->in.log(s->in.owner, "ticker", error, 4);
			__atomic_add_fetch(&async_refused, 1, __ATOMIC_RELAXED);
		}
	}
	return NULL;
}

int plugin_set_async_event_handler(state *s, void *owner, handler h) {
	trace(h ? "handler" : "no-handler");
	if (s->handle) {
		s->stop = 1;
		pthread_join(s->thread, NULL);
		s->handle = NULL;
	}
	if (h) {
		s->stop = 0;
		s->handle = h;
		s->handler_owner = owner;
		pthread_create(&s->thread, NULL, ticker, s);
	}
	return OK;
}
#endif

#ifdef HALF_ASYNC
int plugin_set_async_event_handler(state *s, void *owner, handler h) {
	(void)s, (void)owner, (void)h;
	return OK;
}
#endif

int plugin_set_config(state *s, const char **config) {
	if (strstr(*config, "refuse")) {
		snprintf(s->error, sizeof s->error, "this config is refused");
		return FAILED;
	}
	snprintf(s->config, sizeof s->config, "%s", *config);
	return OK;
}

metric *plugin_get_metrics(state *s, uint32_t *n) {
	double d = 1.5;
	float f = 2.5;
	s->metrics[0] = (metric){"calls", 0, s->calls, 2};
	s->metrics[1] = (metric){"level", 1, (uint32_t)-3, 1};
	s->metrics[2] = (metric){"ratio", 1, 0, 4};
	memcpy(&s->metrics[2].value, &d, 8);
	s->metrics[3] = (metric){"small", 1, 0, 5};
	memcpy(&s->metrics[3].value, &f, 4);
	s->metrics[4] = (metric){"small.count", 0, 0xFFFFFFFF00000005, 0};
	s->metrics[5] = (metric){"large.level", 1, (uint64_t)-5000000000, 3};
	s->metrics[6] = (metric){"int", 1, (uint32_t)-7, 6};
	*n = 7;
	if (strstr(s->config, "metrics-null")) return NULL;
	if (strstr(s->config, "metrics-many")) *n = UINT32_MAX;
	if (strstr(s->config, "metrics-nameless")) s->metrics[1].name = NULL;
	return s->metrics;
}
