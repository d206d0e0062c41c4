"""A source plugin in Python: it counts, and extracts what it has counted."""
import json, os, signal, struct, time
from concurrent import futures

import grpc
import plugin_pb2 as pb
import plugin_pb2_grpc as service

ID, NO_THREAD, PLUGIN_EVENT = 1_073_742_200, 0xFFFFFFFFFFFFFFFF, 322
SCHEMA = {"type": "object", "properties": {"step": {"type": "integer", "minimum": 1}}, "additionalProperties": False}
U64, TEXT, BOOL = pb.FIELD_TYPE_UINT64, pb.FIELD_TYPE_STRING, pb.FIELD_TYPE_BOOL


def event(nanos, data):
    return struct.pack("<QQIHIIII", nanos, NO_THREAD, 38 + len(data), PLUGIN_EVENT, 2, 4, len(data), ID) + data


def payloads(blob):
    while blob:
        length = struct.unpack_from("<I", blob, 16)[0]
        yield blob[38:length]
        blob = blob[length:]


def number(payload):
    try:
        return int(json.loads(payload)["n"])
    except Exception:  # it is an event of somebody else
        return None


class Plugin(service.PluginServiceServicer):
    step, counted, places = 1, 0, {}

    def Describe(self, request, context):
        return pb.DescribeResponse(
            name="python", version="1.0.0", description="Counts in Python", contact="the tests", id=ID, event_source="numbers",
            config_schema=json.dumps(SCHEMA), extract_sources=["numbers"],
            capabilities=pb.Capabilities(source=True, extract=True, open_params=True, strings=True, progress=True, metrics=True, set_config=True, resume=True),
            fields=[pb.Field(name="py.n", type=U64, description="The number"),
                    pb.Field(name="py.digit", type=TEXT, list=True, arg_index=True, description="Its digits"),
                    pb.Field(name="py.even", type=BOOL, description="Whether it is even")])

    def Init(self, request, context):
        self.step = json.loads(request.config or "{}").get("step", 1)
        return pb.InitResponse()

    def SetConfig(self, request, context):
        self.Init(request, context)
        return pb.SetConfigResponse()

    def OpenParams(self, request, context):
        return pb.OpenParamsResponse(params=[pb.OpenParam(value="10", description="Up to ten", separator="")])

    def Open(self, request, context):
        if not request.params.isdigit():
            context.abort(grpc.StatusCode.ABORTED, "the params must be a number, not " + repr(request.params))
        last, n = int(request.params), int(request.resume or b"0")
        yield pb.OpenResponse()  # the stream is open
        while n + self.step <= last:
            numbers = range(n + self.step, min(n + 1000 * self.step, last) + 1, self.step)
            events = [event(time.time_ns(), b'{"n":%d}' % i) for i in numbers]
            n, self.counted, self.places[request.stream] = numbers[-1], self.counted + len(events), numbers[-1] / last
            yield pb.OpenResponse(events=b"".join(events), count=len(events), position=b"%d" % n, has_position=True)

    def Acknowledge(self, request, context):
        return pb.AcknowledgeResponse()

    def Progress(self, request, context):
        return pb.ProgressResponse(fraction=self.places.get(request.stream, 0), text="counting")

    def Strings(self, request, context):
        return pb.StringsResponse(strings=["number " + str(number(p)) for p in payloads(request.events.events)])

    def Extract(self, request, context):
        counts, values = [], []
        for n in map(number, payloads(request.events.events)):
            for f in request.fields:
                digits = [d.encode() for d in str(n)]
                digits = digits[f.arg_index:f.arg_index + 1] if f.arg_present else digits
                found = [] if n is None else ([struct.pack("<Q", n)], digits, [bytes([n % 2 == 0])])[f.index]
                counts.append(len(found))
                values += found
        return pb.ExtractResponse(counts=counts, lengths=[len(v) for v in values], values=b"".join(values))

    def Metrics(self, request, context):
        return pb.MetricsResponse(metrics=[pb.Metric(name="counted", monotonic=True, value=self.counted)])


if os.environ.get("TOCSIN_SOURCE_PLUGIN") != "tocsin.plugin.v1":
    raise SystemExit("This is a plugin of Tocsin. Try: tocsin plugin run")
server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
service.add_PluginServiceServicer_to_server(Plugin(), server)
socket = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], "plugin.sock")
server.add_insecure_port("unix:" + socket)
server.start()
print("1|1|unix|" + socket + "|grpc|", flush=True)
signal.signal(signal.SIGTERM, lambda *_: server.stop(1))
server.wait_for_termination()
