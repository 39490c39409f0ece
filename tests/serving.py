"""Starts `conclave serve` and sends requests, for tests in Python."""

import base64
import functools
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
from contextlib import contextmanager
from pathlib import Path

import jsonschema

from runs import PROGRAM, ranks_of


class Document:
    """openapi.json, which every answer must agree with."""

    def __init__(self, path):
        self.document = json.loads(Path(path).read_text())

    def resolved(self, node):
        while "$ref" in node:
            name = node["$ref"].split("/")[1:]
            node = functools.reduce(lambda at, key: at[key], name, self.document)
        return node

    def responses_of(self, method, path):
        """By status. Other methods get a 405 and other paths a 404, which are not listed one by one."""
        item = self.document["paths"].get(path, {})
        operation = item.get("get" if method == "HEAD" else method.lower())
        if operation:
            return operation["responses"]
        return {status: {"$ref": "#/components/responses/Refused"} for status in ("403", "405" if item else "404")}

    def check(self, method, target, status, headers, body):
        path = "/" + target.split("://")[-1].partition("/")[2].partition("?")[0] if "://" in target else target.partition("?")[0]
        responses = self.responses_of(method, path)
        listed = responses.get(str(status)) or (responses.get("default") if status >= 400 else None)
        assert listed, f"{method} {path[:100]}: status {status} is not in openapi.json"
        content, kind = self.resolved(listed)["content"], headers["Content-Type"].partition(";")[0]
        assert kind in content, f"{method} {path[:100]}: {status} with {kind}, which is not in openapi.json"
        if kind == "application/json" and method != "HEAD":
            schema = {"components": self.document["components"], **content[kind]["schema"]}
            jsonschema.Draft202012Validator(schema).validate(json.loads(body))


DOCUMENT = Document(Path(os.environ["CONCLAVE_SOURCE"], "recipes/service/openapi.json"))


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
        DOCUMENT.check(method, path, *answer)
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
