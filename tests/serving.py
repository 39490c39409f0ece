"""Starts `conclave serve` and sends requests, for tests in Python."""

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
from contextlib import contextmanager

from runs import PROGRAM, ranks_of


class Service:
    def __init__(self, job, line, ranks):
        self.job, self.line = job, line
        # Signals rank 0 and not mpirun, which would pass the signal on and soon kill all ranks.
        self.first_rank = ranks_of(job.pid)[0] if ranks > 1 else job.pid
        self.scheme, rest = line.split()[-1].split("://")
        self.host, port = rest.strip("/").split(":")
        self.port = int(port)

    def connect(self, timeout=60):
        if self.scheme == "http":
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=context)

    def ask(self, method, path, body=None, headers={}, connection=None):
        """Returns (status, headers, bytes)."""
        own = connection or self.connect()
        own.request(method, path, body, headers)
        response = own.getresponse()
        answer = response.status, dict(response.getheaders()), response.read()
        if not connection:
            own.close()
        return answer

    def get(self, path, status=200):
        got, _, body = self.ask("GET", path)
        assert got == status, (path, got, body)
        return body.decode()

    def post(self, task, question, status=200, headers={}, connection=None):
        """Sends a question as JSON and returns the answer as JSON, or the error of a refusal."""
        body = question if isinstance(question, (bytes, str)) else json.dumps(question)
        headers = {"Content-Type": "application/json", **headers}
        got, _, answer = self.ask("POST", f"/v1/{task}", body, headers, connection)
        assert got == status, (task, str(question)[:200], got, answer[:500])
        answer = json.loads(answer)
        if status != 200:
            assert set(answer["error"]) == {"code", "message"} and answer["error"]["message"], answer
            return answer["error"]
        return answer

    def metric(self, name):
        """The value of a metric, summed over all labels."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith((name + " ", name + "{"))]
        assert lines, f"no {name} in /metrics"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def socket(self):
        return socket.create_connection((self.host, self.port), timeout=30)

    def end(self, number=signal.SIGTERM, status=0, timeout=60):
        os.kill(self.first_rank, number)
        output, _ = self.job.communicate(timeout=timeout)
        assert self.job.returncode == status, (self.job.returncode, output)
        return output


@contextmanager
def serving(*arguments, ranks=1, program=PROGRAM):
    start = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
    command = [*start, program, "serve", "--port=0", *map(str, arguments)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        line = job.stdout.readline()
        assert line.startswith("serving "), line + job.stdout.read()
        service = Service(job, line, ranks)
        yield service
        if job.poll() is None:
            service.end()
    finally:
        job.kill()
        job.wait()


def base64_of(path):
    return base64.b64encode(open(path, "rb").read()).decode()
