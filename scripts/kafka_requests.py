"""The requests that `scripts/kafka` sends to a broker itself: each takes milliseconds, where a tool of Kafka's would start a JVM.

Every one goes to the port of a broker on this machine, which passes on to the controller what is not its own to do. A partition is
`(topic, number)`. What the network does wrong is an `OSError`, an answer that is cut off a `struct.error`, a refusal a `Refused`.
"""

import collections
import io
import socket
import struct

METADATA, ELECT_LEADERS, ALTER_PARTITION_REASSIGNMENTS = 3, 43, 45
CLIENT = b"scripts/kafka"
TIMEOUT_SECONDS = 2
# The broker's own limit for a change, below the one of the connection.
CHANGE_TIMEOUT_MS = 1500
ELECTION_NOT_NEEDED = 84

Partition = collections.namedtuple("Partition", "leader replicas in_sync")


class Refused(Exception):
    pass


def brokers_known_at(port):
    """The ids that the broker at this port gives to clients; empty where it does not answer."""
    try:
        reply = ask(port, METADATA, 4, struct.pack(">i?", 0, False))
        return read_brokers(reply)
    except (OSError, struct.error):
        return set()


def partitions_known_at(port):
    """Leader, replicas and replicas in sync of every partition, Kafka's own topics too, as the broker at this port knows them."""
    reply = ask(port, METADATA, 4, struct.pack(">i?", -1, False))
    read_brokers(reply)
    # The cluster's id, the controller.
    reply.text(), reply.number("i")
    partitions = {}
    for topic, found in reply.array(read_topic):
        partitions |= {(topic, number): partition for number, partition in found}
    return partitions


def read_brokers(reply):
    # How long the broker throttles.
    reply.number("i")
    return set(reply.array(read_broker))


def read_broker(reply):
    number, _host, _port, _rack = reply.number("i"), reply.text(), reply.number("i"), reply.text()
    return number


def read_topic(reply):
    _error, name, _internal = reply.number("h"), reply.text(), reply.number("b")
    return name, reply.array(read_partition)


def read_partition(reply):
    _error, number, leader = reply.number("h"), reply.number("i"), reply.number("i")
    replicas, in_sync = (reply.array(lambda r: r.number("i")) for _ in range(2))
    return number, Partition(leader, replicas, in_sync)


def order_replicas(port, orders):
    """Gives each partition its replicas in a new order; the first one is the leader that Kafka prefers from then on."""
    topics = [compact_text(topic) + compact_array(map(ordered, found)) + NO_TAGS for topic, found in by_topic(orders)]
    body = struct.pack(">i", CHANGE_TIMEOUT_MS) + compact_array(topics) + NO_TAGS
    reply = ask(port, ALTER_PARTITION_REASSIGNMENTS, 0, body, compact=True)
    _tags, _throttle, error, message = reply.number("b"), reply.number("i"), reply.number("h"), reply.compact_text()
    refuse(error, message)
    reply.compact_array(read_ordered_topic)


def ordered(change):
    number, replicas = change
    return struct.pack(">i", number) + compact_array(struct.pack(">i", r) for r in replicas) + NO_TAGS


def read_ordered_topic(reply):
    name, _partitions, _tags = reply.compact_text(), reply.compact_array(read_ordered), reply.number("b")
    return name


def read_ordered(reply):
    number, error, message, _tags = reply.number("i"), reply.number("h"), reply.compact_text(), reply.number("b")
    refuse(error, message)
    return number


def elect_preferred_leaders(port, partitions):
    """Makes the first replica of each the leader."""
    topics = [text(topic) + array(struct.pack(">i", number) for number, _ in found) for topic, found in by_topic(dict.fromkeys(partitions))]
    preferred = 0
    reply = ask(port, ELECT_LEADERS, 1, struct.pack(">b", preferred) + array(topics) + struct.pack(">i", CHANGE_TIMEOUT_MS))
    _throttle, error = reply.number("i"), reply.number("h")
    refuse(error, None)
    reply.array(lambda r: (r.text(), r.array(read_elected)))


def read_elected(reply):
    number, error, message = reply.number("i"), reply.number("h"), reply.text()
    if error != ELECTION_NOT_NEEDED:
        refuse(error, message)
    return number


def refuse(error, message):
    if error:
        raise Refused(f"Kafka refuses with error {error}: {message or 'it does not say why'}")


def by_topic(partitions):
    """From `{(topic, number): value}` to topics with their numbers and values."""
    topics = collections.defaultdict(list)
    for (topic, number), value in partitions.items():
        topics[topic].append((number, value))
    return topics.items()


def ask(port, key, version, body, compact=False):
    """The answer to a request, behind its correlation id."""
    request = struct.pack(">hhi", key, version, 1) + text(CLIENT.decode()) + (NO_TAGS if compact else b"") + body
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection, connection.makefile("rb") as stream:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer_bytes, _correlation = struct.unpack(">2i", stream.read(8))
        return Reply(stream.read(answer_bytes - 4))


class Reply:
    """The fields of an answer, in their order."""

    def __init__(self, answer):
        self.stream = io.BytesIO(answer)

    def number(self, kind):
        return struct.unpack(f">{kind}", self.stream.read(struct.calcsize(f">{kind}")))[0]

    def text(self):
        return self.stream.read(max(self.number("h"), 0)).decode()

    def array(self, read):
        return [read(self) for _ in range(self.number("i"))]

    # Requests of the newer form write lengths as one more than they are, seven bits a byte, the lowest first; 0 is null.
    def compact_length(self):
        value, shift = 0, 0
        while True:
            byte = self.number("B")
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return max(value - 1, 0)
            shift += 7

    def compact_text(self):
        return self.stream.read(self.compact_length()).decode()

    def compact_array(self, read):
        return [read(self) for _ in range(self.compact_length())]


NO_TAGS = b"\0"


def text(value):
    return struct.pack(">h", len(value.encode())) + value.encode()


def array(items):
    items = list(items)
    return struct.pack(">i", len(items)) + b"".join(items)


def compact_length(length):
    out, rest = bytearray(), length + 1
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def compact_text(value):
    return compact_length(len(value.encode())) + value.encode()


def compact_array(items):
    items = list(items)
    return compact_length(len(items)) + b"".join(items)
