"""A TCP proxy that imitates a bad network: it cuts connections, delays them, and loses data."""

import math
import random
import socket
import struct
import threading
import time

PIECE = 16 * 1024


class FaultyProxy:
    """Forwards connections from localhost:`port` to localhost:`target`. `seed` and n decide what happens to the n-th
    connection. After `faults` disturbed connections, later ones are left alone."""

    def __init__(self, port, target, seed, faults):
        self.target, self.seed, self.faults = target, seed, faults
        self.connections, self.disturbed = 0, []
        self.listener = socket.create_server(("localhost", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            choose = random.Random(f"{self.seed}/{self.connections}")
            try:
                server = socket.create_connection(("localhost", self.target))
            except OSError:  # the target does not listen now
                client.close()
                continue
            fault = choose.choice(["cut", "stall", "lose", "slow", None])
            if len(self.disturbed) == self.faults:
                fault = None
            if fault:
                self.disturbed.append(fault)
            _Connection(client, server, fault, choose)


class _Connection:
    def __init__(self, client, server, fault, choose):
        self.sockets = (client, server)
        self.fault = fault
        self.seconds = choose.uniform(0.1, 2)
        self.upward = choose.random() < 0.5  # whether the client's data, or the target's, is counted
        # Bytes until the fault: from within the handshake to beyond the whole model, log-uniform.
        self.after = int(math.exp(choose.uniform(math.log(50), math.log(5e5))))
        self.lost = False
        for source, sink in [(client, server), (server, client)]:
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source, sink):
        counted = (source is self.sockets[0]) == self.upward
        try:
            while data := source.recv(PIECE):
                if self.lost:
                    continue
                if self.fault == "slow":
                    time.sleep(self.seconds / 50)
                elif self.fault and counted:
                    data = self._disturb(data, sink)
                sink.sendall(data)
        except OSError:
            pass
        self._cut()

    def _disturb(self, data, sink):
        """Counts the data; returns the part that is still to be sent."""
        if len(data) <= self.after:
            self.after -= len(data)
            return data
        sink.sendall(data[: self.after])
        fault, self.fault = self.fault, None
        if fault == "lose":
            self.lost = True
        if fault != "cut":
            time.sleep(self.seconds)
        if fault == "stall":
            return data[self.after :]
        raise ConnectionResetError

    def _cut(self):
        """Closes the connection abruptly, so that data under way is lost."""
        for one in self.sockets:
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
                one.close()
            except OSError:  # the thread of the other direction has closed it
                pass
