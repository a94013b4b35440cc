"""Reads from Kafka what Headend has written there, by the rules that its documentation gives to readers, and without Headend.

`EpochChains` follows the epoch topics: who owns which task, how far each is, what was ignored. `SinkTopics` reads the topics of
keyless Kafka sinks and drops what was sent again. Both go on from where they stopped, and need confluent-kafka.
"""

import collections
import json
import struct
import time

import confluent_kafka

# A broker that does not answer within this is asked again by who can wait.
ANSWER_SECONDS_MAX = 1
# So long records may take to come that a partition has.
COME_SECONDS_MAX = 5
# What passes by itself while brokers die and leaders move.
WEATHER = (confluent_kafka.KafkaException, TimeoutError)
TAKEN_MAX = 1000
TAKE_SECONDS = 0.02
# Magic, checksum, length of the header: `schemas/src/epoch.rs`.
EPOCH_PREFIX = struct.Struct("<4sII")


class Follower:
    """Partitions from their start, in order, as far as they go when they are read. Offsets are its own: what librdkafka gives twice after a
    failure is passed over."""

    def __init__(self, brokers, partitions):
        # What librdkafka has to say about brokers that are down is no news here.
        settings = {"bootstrap.servers": brokers, "group.id": "chaos", "enable.auto.commit": False, "auto.offset.reset": "earliest", "log_level": 0}
        # A broker that has just started may name fewer partitions than there are, and what it says is believed until the next refresh.
        settings |= {"topic.metadata.refresh.interval.ms": 1000, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 1000}
        settings |= {"fetch.error.backoff.ms": 100, "fetch.wait.max.ms": 100}
        self.consumer = confluent_kafka.Consumer(settings)
        self.next = dict.fromkeys(partitions, 0)
        self.consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for topic, number in self.next])

    def end(self, partition):
        """The next offset after its last record, as its leader says now; a `KafkaException` where there is no leader."""
        return self.consumer.get_watermark_offsets(confluent_kafka.TopicPartition(*partition), timeout=ANSWER_SECONDS_MAX)[1]

    def read(self):
        ends = {partition: self.end(partition) for partition in self.next}
        since = time.monotonic()
        while any(self.next[partition] < end for partition, end in ends.items()):
            for message in self.consumer.consume(TAKEN_MAX, timeout=TAKE_SECONDS):
                partition = message.topic(), message.partition()
                # An error is weather: librdkafka goes on by itself.
                if message.error() is None and message.offset() >= self.next[partition]:
                    self.next[partition], since = message.offset() + 1, time.monotonic()
                    yield message
            if time.monotonic() - since > COME_SECONDS_MAX:
                raise TimeoutError(f"records do not come: read to {self.next}, and the ends are {ends}")


class EpochChains:
    """The accepted chains of all tasks. `tasks` says how many each group has."""

    def __init__(self, brokers, tasks):
        self.chains = {(f"epochs.{group}", task): Chain(group, task) for group, count in tasks.items() for task in range(count)}
        self.follower = Follower(brokers, self.chains)

    def read(self):
        for message in self.follower.read():
            _, _, header_bytes = EPOCH_PREFIX.unpack_from(message.value())
            header = json.loads(message.value()[EPOCH_PREFIX.size :][:header_bytes])
            self.chains[message.topic(), message.partition()].offer(header)
        return self.known()

    def known(self):
        """The chains as they were when they were read last."""
        return list(self.chains.values())

    def behind(self):
        """The tasks whose input had records, when this was called, that no accepted epoch has taken when it ends."""
        inputs = {partition for chain in self.read() for partition in chain.cut}
        # The ends go first: against ends that are asked for later a task under way would always lag.
        ends = {partition: self.follower.end(partition) for partition in inputs}
        for chain in self.read():
            chain.lag = sum(max(0, ends.get(partition, 0) - to) for partition, to in chain.cut.items())
        # A task that has taken nothing yet has not said what its inputs are.
        return [chain for chain in self.known() if chain.lag or not chain.cut]


class Chain:
    """One task's epochs by the rule of `schemas/src/chain.rs`: accepted is the next number on the parent that was accepted before."""

    def __init__(self, group, task):
        self.group, self.task = group, task
        self.epoch, self.id, self.owner = 0, "0" * 32, None
        self.claims = self.ignored = self.lag = 0
        self.cut = {}

    def offer(self, header):
        if (header["epoch"], header["parent"]) != (self.epoch + 1, self.id):
            self.ignored += 1
            return
        self.epoch, self.id, self.owner = header["epoch"], header["id"], header["owner"]
        self.claims += header["kind"] == "claim"
        self.cut |= {(taken["topic"], taken["partition"]): taken["to"] for taken in header["cut"]}

    def __str__(self):
        return f"{self.group}/{self.task} of {self.owner} at epoch {self.epoch}, {self.lag} records behind"


class SinkTopics:
    """The rows of one keyless sink, each once: a record whose number is not above the last of its incarnation, task and partition was sent
    again."""

    def __init__(self, brokers, topic, partitions):
        self.follower = Follower(brokers, [(topic, number) for number in range(partitions)])
        self.rows = collections.defaultdict(list)
        self.records = self.repeats = self.gaps = self.changed = 0

    def read(self):
        for message in self.follower.read():
            headers = {name: value.decode() for name, value in message.headers()}
            source = headers["headend-incarnation"], headers["headend-task"], message.partition()
            self.take(self.rows[source], int(headers["headend-seq"]), message.value())

    def take(self, rows, seq, value):
        self.records += 1
        if seq <= len(rows):
            self.repeats += 1
            # The same number is the same row.
            self.changed += rows[seq - 1] != value
            return
        self.gaps += seq > len(rows) + 1
        # The rows that are missing keep their places, so that the numbers after them still fit.
        rows.extend([None] * (seq - 1 - len(rows)))
        rows.append(value)

    def values(self):
        return [json.loads(value) for rows in self.rows.values() for value in rows if value is not None]

    def count(self):
        return sum(len(rows) for rows in self.rows.values())
