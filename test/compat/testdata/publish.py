"""A client of tocsin.v1.Publisher made from its proto alone, on the C core of gRPC.

usage: publish.py ADDRESS TOKEN
Prints one line per result, for the test that runs it.
"""
import sys

import grpc
from tocsin.v1 import publisher_pb2 as pb
from tocsin.v1 import publisher_pb2_grpc as rpc

address, token = sys.argv[1:]
publisher = rpc.PublisherStub(grpc.insecure_channel(address))
metadata = [("x-vault-token", token)]


def event(id, **more):
    return pb.Event(id=id, source="/python", type="shop/order-placed", subject="orders/17", **more)


def refused(call):
    try:
        call()
        print("not refused")
    except grpc.RpcError as e:
        details = pb.Refusals()
        for key, value in e.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                # google.rpc.Status: code, message, details; of the Any in it only the value is wanted.
                from google.rpc import status_pb2
                status = status_pb2.Status.FromString(value)
                status.details[0].Unpack(details)
        print(e.code().name, details.total, len(details.refused) > 0, e.details())


e = event("1", metadata={"path": "orders/17", "city": "Zürich"}, metadata_json={"count": "3"}, data=b"\0\xff")
e.time.GetCurrentTime()
r = publisher.Publish(pb.PublishRequest(events=[e]), metadata=metadata)
print("accepted", r.accepted, r.duplicates)
r = publisher.Publish(pb.PublishRequest(events=[e]), metadata=[("authorization", "Bearer " + token)])
print("accepted", r.accepted, r.duplicates)
r = publisher.Publish(pb.PublishRequest(events=[event("2")]), metadata=metadata, compression=grpc.Compression.Gzip)
print("accepted", r.accepted, r.duplicates)

refused(lambda: publisher.Publish(pb.PublishRequest(events=[e]), metadata=[("x-vault-token", "bogus")]))
refused(lambda: publisher.Publish(pb.PublishRequest(events=[e])))
refused(lambda: publisher.Publish(pb.PublishRequest(events=[event(str(i), data_content_type="?") for i in range(5000)]), metadata=metadata))

requests = 200


def stream():
    for i in range(requests):
        yield pb.PublishStreamRequest(sequence=i + 1, events=[event("stream-%d-%d" % (i, k), data=b"x" * 500) for k in range(50)])


last = accepted = 0
for response in publisher.PublishStream(stream(), metadata=metadata):
    assert response.acknowledged_sequence > last
    last, accepted = response.acknowledged_sequence, accepted + response.accepted
print("stream", last, accepted)
