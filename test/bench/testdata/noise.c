// A Falco plugin whose events are noise. Its params are "COUNT SIZE": how many events, and the
// bytes of a payload. The same 4096 events come again and again.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POOL = 4096, BATCH = 128, SUCCESS = 0, FAILURE = 1, END = 2 };

typedef struct __attribute__((packed)) {
	uint64_t time, thread;
	uint32_t length;
	uint16_t type;
	uint32_t params, id_length, data_length, id;
} event;

typedef struct { char error[64]; } plugin;
typedef struct { uint64_t left; size_t size, next; char *memory; event *list[BATCH]; } stream;

const char *plugin_get_required_api_version(void) { return "3.0.0"; }
const char *plugin_get_name(void) { return "noise"; }
const char *plugin_get_description(void) { return "Makes noise"; }
const char *plugin_get_contact(void) { return "nobody"; }
const char *plugin_get_version(void) { return "1.0.0"; }
uint32_t plugin_get_id(void) { return 999; }
const char *plugin_get_event_source(void) { return "noise"; }
const char *plugin_get_last_error(plugin *p) { return p->error; }

plugin *plugin_init(const void *in, int *rc) {
	(void)in;
	*rc = SUCCESS;
	return calloc(1, sizeof(plugin));
}

void plugin_destroy(plugin *p) { free(p); }

stream *plugin_open(plugin *p, const char *params, int *rc) {
	unsigned long long count, size;
	if (sscanf(params, "%llu %llu", &count, &size) != 2 || size > 1 << 20) {
		snprintf(p->error, sizeof p->error, "the params are COUNT SIZE");
		*rc = FAILURE;
		return NULL;
	}
	stream *s = calloc(1, sizeof *s);
	s->left = count;
	s->size = sizeof(event) + size;
	s->memory = malloc(POOL * s->size);
	uint64_t seed = 1;
	for (size_t i = 0; i < POOL; i++) {
		event *e = (event *)(s->memory + i * s->size);
		*e = (event){.time = UINT64_MAX, .thread = UINT64_MAX, .length = s->size, .type = 322, .params = 2, .id_length = 4, .data_length = size, .id = 999};
		for (size_t n = 0; n < size; n++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			((char *)(e + 1))[n] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[seed >> 58];
		}
	}
	*rc = SUCCESS;
	return s;
}

void plugin_close(plugin *p, stream *s) {
	(void)p;
	free(s->memory);
	free(s);
}

int plugin_next_batch(plugin *p, stream *s, uint32_t *count, event ***events) {
	(void)p;
	*count = 0;
	*events = s->list;
	for (; *count < BATCH && s->left > 0; s->left--) {
		s->list[(*count)++] = (event *)(s->memory + s->next * s->size);
		s->next = (s->next + 1) % POOL;
	}
	return s->left > 0 ? SUCCESS : END;
}
