"""A session with an ordinary client library. Prints what it saw, a line each: the same with and without a proxy."""

import sys
import threading

import redis


def show(what, value):
    print(what, repr(value), flush=True)


host, port = sys.argv[1].rsplit(":", 1)
client = redis.Redis(host=host, port=int(port), password="secret", protocol=3, client_name="py", decode_responses=True)
client.flushall()
show("set", client.set("a", "1"))
show("get", client.get("a"))
show("name", client.client_getname())
show("hash", (client.hset("h", mapping={"x": 1, "y": 2}), client.hgetall("h")))
pipe = client.pipeline(transaction=False)
for number in range(100):
    pipe.set(f"k{number:03}", number).get(f"k{number:03}")
show("pipeline", pipe.execute())
pipe = client.pipeline(transaction=True)
show("transaction", pipe.incr("n").incr("n").get("n").execute())
with client.pipeline() as watched:
    watched.watch("n")
    client.incr("n")
    watched.multi()
    watched.incr("n")
    try:
        show("watch", watched.execute())
    except redis.WatchError:
        show("watch", "changed")
show("scan", sorted(client.scan_iter("k*", count=7)))
show("blocked in vain", client.blpop("none", timeout=1))
threading.Timer(0.2, lambda: client.rpush("queue", "job")).start()
show("blocked", client.blpop("queue", timeout=5))
try:
    client.incr("h")
except redis.ResponseError as error:
    show("error", str(error))
subscription = client.pubsub()
subscription.subscribe("news")
show("subscribed", subscription.get_message(timeout=5))
client.publish("news", "hello")
show("message", subscription.get_message(timeout=5))
subscription.close()
show("script", client.eval("return {KEYS[1], ARGV[1]}", 1, "k", "v"))
show("bytes", len(client.get("big")) if client.set("big", "x" * 3_000_000) else None)
