"""A service classifies texts as `conclave predict` does. It explains why it refuses a request, and no client keeps it
from answering others."""

import gzip
import http.client
import json
import os
import re
import resource
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path
from unittest.mock import patch

from runs import PROGRAM, prepare, run, train
from serving import DOCUMENT, serving

TEXTS = []


def same_as_predict(service):
    lines = run([PROGRAM, "predict", "one", "--top=2", *TEXTS[:20]]).splitlines()
    connection = service.connect()
    for text, line in zip(TEXTS, lines):
        wanted, got = json.loads(line), service.post("classify", {"text": text, "top": 2}, connection=connection)
        assert got["class"] == wanted["class"], (wanted, got)
        assert [c["class"] for c in got["top"]] == [c["class"] for c in wanted["top"]], (wanted, got)
        assert abs(got["probability"] - wanted["probability"]) < 1e-6, (wanted, got)


def forms(service):
    text = {"text": TEXTS[0], "experts": True}
    answer = service.post("classify", text)
    assert [layer["layer"] for layer in answer["experts"]] == ["layers.0.moe", "layers.1.moe"], answer
    # Each token goes to two of four experts.
    assert all(len(l["rows"]) == 4 and sum(l["rows"]) == 2 * answer["tokens"] for l in answer["experts"]), answer
    vector = service.post("embed", {"text": TEXTS[0]})["embedding"]
    assert len(vector) == 64 and vector != service.post("embed", {"text": TEXTS[1]})["embedding"]
    asks = lambda path, **headers: service.ask(
        "POST", path, json.dumps({"text": TEXTS[0]}), {"Content-Type": "application/json", **headers}
    )
    status, headers, body = asks("/v1/classify?format=csv")
    assert (status, headers["Content-Type"]) == (200, "text/csv"), (status, headers)
    assert body.startswith(b"class,probability\r\n") and body.count(b"\r\n") == 4, body
    assert asks("/v1/embed", Accept="text/csv")[2].count(b",") == 63
    assert asks("/v1/classify", Accept="image/png")[0] == 406
    boundary = "--b\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n{}\r\n"
    form = boundary.format("text", TEXTS[0]) + boundary.format("top", 1) + "--b--\r\n"
    form_type = {"Content-Type": "multipart/form-data; boundary=b"}
    status, _, body = service.ask("POST", "/v1/classify", form, form_type)
    assert status == 200 and json.loads(body)["class"] == answer["class"], (status, body)
    # For a large body, curl sends Expect: 100-continue first.
    padded = json.dumps({"text": TEXTS[0]}) + " " * 900_000
    told = subprocess.run(
        ["curl", "-sS", "-H", "Expect: 100-continue", "-H", "Content-Type: application/json", "--data-binary", "@-",
         f"http://{service.host}:{service.port}/v1/classify"],
        input=padded, text=True, capture_output=True, timeout=20,
    )
    assert json.loads(told.stdout)["class"] == answer["class"], told
    model = json.loads(service.get("/v1"))["model"]  # without the path of the model
    assert model == answer["model"] and model.startswith("one/") and model.count("/") == 1, model
    document = json.loads(service.get("/openapi.json"))
    assert document == DOCUMENT.document  # with which every answer is compared
    assert "<title>Conclave</title>" in service.get("/")
    assert service.get("/healthz") == "alive\n" and service.get("/readyz") == "ready\n"


def refusals(service):
    def refused(status, code, question, **how):
        error = service.post("classify", question, status, **how)
        assert error["code"] == code, (code, error)

    def raw(data):
        connection = service.socket()
        connection.sendall(data)
        return connection.recv(12)

    nested = "[" * 100_000 + "]" * 100_000
    for broken in ("", "{", '{"text": "a"', b'{"text": "\xff"}', "[" * 100_000, f'{{"text": "a", "top": {nested}}}'):
        refused(400, "bad_json", broken)
    refused(400, "missing_field", {})
    refused(400, "unknown_field", {"text": "a", "tops": 1})
    refused(400, "bad_option", {"text": "a", "top": 0})
    refused(400, "unwanted_field", {"image": "AAAA"})
    refused(413, "text_too_long", {"text": "a" * 70_000})
    assert len(service.post("classify", "1" * 1_000_000 + "x", 400)["message"]) < 1000
    refused(413, "body_too_large", " " * 1_100_000)  # of a model without images
    refused(415, "unsupported_type", {"text": "a"}, headers={"Content-Type": "text/plain"})
    # Compressed bodies, which would be inflated before their size is known.
    for packed in (gzip.compress(b'{"text": "a"}'), gzip.compress(b" " * 100_000_000, 1)):
        refused(415, "unsupported_encoding", packed, headers={"Content-Encoding": "gzip"})
    assert service.post("classify", {"text": TEXTS[0]}, headers={"Content-Encoding": "identity"})["class"]
    assert service.post("sing", {}, 404)["code"] == "unknown_task"
    assert len(service.post("a" * 8000, {}, 404)["message"]) < 200
    assert service.post("caption", {}, 404)["code"] == "task_not_served"
    assert json.loads(service.ask("GET", "/nothing")[2])["error"]["code"] == "not_found"
    for method, path, allowed in (("GET", "/v1/classify", "POST"), ("DELETE", "/v1/embed", "POST"), ("PUT", "/v1", "GET, HEAD")):
        status, headers, _ = service.ask(method, path)
        assert (status, headers["Allow"]) == (405, allowed), (method, path, status)
    assert raw(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length\t: 40\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b"HTTP/1.1 400"
    closing = service.socket()
    closing.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Close\r\n\r\n")
    assert b"".join(iter(lambda: closing.recv(1000), b"")).endswith(b"alive\n")
    cut = service.post("classify", {"text": " ".join(TEXTS[:50])})
    assert cut["truncated"] and cut["tokens"] == json.loads(service.get("/v1"))["most_tokens"], cut
    assert "truncated" not in service.post("classify", {"text": "a"})
    assert raw(b"\x16\x03\x01\0") == b"HTTP/1.1 400"
    assert raw(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n") == b"HTTP/1.1 411"
    assert raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 100_000) == b"HTTP/1.1 431"
    assert raw(b"GET / HTTP/3.0\r\n\r\n") == b"HTTP/1.1 505"
    same_as_predict(service)


def other_sites(service):
    """Web pages of other sites, and names that are not the service's, are refused; --allow-host adds a name."""
    question = {"text": TEXTS[0]}

    def code(service, path="/v1/embed", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, body = service.ask("POST", path, json.dumps(question), {"Content-Type": "application/json", **headers})
        assert status in (200, 403), (status, body)
        return status == 403 and json.loads(body)["error"]["code"]

    own = f"{service.host}:{service.port}"
    assert not code(service, Origin=f"http://{own}", Sec_Fetch_Site="same-origin")
    assert not code(service, Host=f"localhost:{service.port}", Origin=f"http://localhost:{service.port}")
    assert code(service, Sec_Fetch_Site="cross-site") == code(service, Origin="http://evil.example") == "cross_site"
    assert code(service, Host="evil.example") == "unknown_host"
    status, _, body = service.ask("GET", "/v1", headers={"Host": f"evil.example:{service.port}"})
    assert status == 403 and "--allow-host" in json.loads(body)["error"]["message"], (status, body)
    run([PROGRAM, "serve", "one", "--allow-host=http://a.example"], status=1, says=["--allow-host http://a.example: expected a name"])
    with serving("one", "--allow-host=models.example") as named:
        assert not code(named, Host="models.example", Origin="https://models.example")
        assert code(named, Host="evil.example") == "unknown_host"
    with serving("one", "--host=0.0.0.0") as everywhere:
        assert not code(everywhere, Host="anything.example")
        assert code(everywhere, Host="anything.example", Origin="http://evil.example") == "cross_site"


def forms_that_take_long(service):
    """Forms with headers that would take a regular expression a second each are read fast."""
    header = 'Content-Disposition: form-data; name="' + '";filename="' * 680 + "x\r\n"
    form, kind = "--b\r\n" + header * 30 + "\r\na\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}
    began = time.monotonic()
    for path, wanted in (("/v1/classify", (400, "missing_field")), ("/", (405, "method_not_allowed")), ("/a", (404, "not_found"))):
        status, _, body = service.ask("POST", path, form, kind)
        assert (status, json.loads(body)["error"]["code"]) == wanted, (path, status, body)
    assert time.monotonic() - began < 5, "a form takes long"


def ranges(service):
    """Range headers are ignored: the answer is complete and not longer than without them."""
    whole = service.ask("GET", "/openapi.json")
    for asked in ("bytes=0-3", "bytes=" + ",".join(["0-"] * 2600), "nonsense"):
        got = service.ask("GET", "/openapi.json", headers={"Range": asked, "rAnGe": asked[:20]})
        assert (got[0], got[2]) == (whole[0], whole[2]), (asked[:20], got[0], len(got[2]))
    assert service.post("classify", {"text": TEXTS[0]}, headers={"Range": "bytes=0-3"})["class"]
    assert service.ask("HEAD", "/openapi.json")[1]["Accept-Ranges"] == "none"
    assert service.ask("GET", f"http://localhost:{service.port}/openapi.json?a")[2] == whole[2]  # as a proxy asks
    assert service.ask("GET", "http://evil.example/openapi.json")[0] == 403


def crowds():
    """1,000 connections that send nothing and 1,000 that send a byte at a time do not delay other requests."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with serving("one", "--request-seconds=500") as service:  # longer than the test takes on any machine
        idle = [service.socket() for _ in range(1000)]
        slow = [service.socket() for _ in range(1000)]
        head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
        for i in range(20):
            for connection in slow:
                connection.send(head[i : i + 1])
            asked = time.monotonic()
            service.post("classify", {"text": TEXTS[i]})
            assert time.monotonic() - asked < 20, "a request waits for others that never end"
        assert service.metric("conclave_connections") > 1900
        for connection in idle + slow:
            connection.close()


def too_slow():
    """A slow request gets a 408, and its connection is closed. An idle connection is closed without an answer."""
    with serving("one", "--request-seconds=2") as service:
        idle, slow = [service.socket() for _ in range(20)], []
        for _ in range(20):
            slow.append(service.socket())
            slow[-1].send(b"POST")
        for connection in slow:
            assert connection.recv(12) == b"HTTP/1.1 408", "the slow are kept"
        for connection in idle:
            assert connection.recv(1) == b"", "the idle are kept"
        limit = time.monotonic() + 20
        while service.metric("conclave_connections") > 1:  # one connection is that of the metric itself
            assert time.monotonic() < limit, "they are not let go"
            time.sleep(0.1)


def loads(service):
    """The figures of `conclave load` agree with the counts of the service."""
    url = f"http://{service.host}:{service.port}"
    for options in (["--clients=8"], ["--clients=8", "--rate=100"]):
        before = service.metric("conclave_request_seconds_count")
        told = run([PROGRAM, "load", url, "--seconds=1", "--words=5", *options], says=["0 refused, 0 failed"])
        rate = float(told.split(" answers/s")[0].split()[-1])
        counted = service.metric("conclave_request_seconds_count") - before
        assert counted > 20 and 0.5 * counted < rate < 1.5 * counted, (told, counted)
        assert "--rate=100" not in options or 50 < rate < 150, told
    run([PROGRAM, "load", url, "--seconds=1", "--rate=100"], says=["100 requests/s", "0 refused, 0 failed"])
    assert service.metric("process_resident_memory_bytes") > 1e6
    run([PROGRAM, "load", url + "/", "--seconds=0.2"], says=["0 refused, 0 failed"])
    run([PROGRAM, "load", "http://127.0.0.1:9"], status=1, says=["no service answers there"])
    for options in ([], ["--saturate"]):
        wrong = [PROGRAM, "load", url, "--task=generate", "--seconds=0.2", *options]
        run(wrong, status=1, says=["nothing was answered; the status of what was refused is 404"])
    run([PROGRAM, "load", url, "--rate=100", "--saturate"], status=2, says=["--rate excludes --saturate"])


def bench():
    """scripts/bench_serve prints how many requests its two services have put into a batch."""
    told = run([f"{os.environ['CONCLAVE_SOURCE']}/scripts/bench_serve", "one", "--words=5", "--seconds=0.2"])
    for name in ("conclave_batch_queries_sum", "conclave_batch_rows_count", "conclave_engine_seconds_total"):
        assert told.count(f"\n{name}") == 2, told
    # The result is the most answers per second among the measurements that kept the limit, give or take what is rounded.
    [limit] = set(re.findall(r" with p99 within 4 x ([0-9.]+) ms", told))
    measured = re.findall(r"(http://\S+): (\d+) clients: ([0-9.]+) answers/s; .* p99 ([0-9.]+) ms", told)

    def most(url, within):
        return max(float(rate) for its, clients, rate, p99 in measured if its == url and (clients == "1" or float(p99) < within))

    found = {url: float(rate) for url, rate in re.findall(r"(http://\S+): at most ([0-9.]+) answers/s", told)}
    assert len(found) == 2, told
    for url, rate in found.items():
        assert most(url, 4 * float(limit) - 0.03) <= rate <= most(url, 4 * float(limit) + 0.03), told
    first, last = found.values()
    assert abs(float(re.search(r"the last answers ([0-9.]+) x", told)[1]) - last / first) < 0.02, told


def drain(service):
    """After SIGTERM under load, the service answers every request that it has accepted."""
    answered, failed, stop = [], [], threading.Event()

    def load(number):
        while not stop.is_set():
            connection = service.connect()
            try:
                connection.connect()
            except ConnectionRefusedError:
                return
            try:
                while not stop.is_set():
                    text = {"text": TEXTS[number]}
                    answer = service.ask("POST", "/v1/classify", json.dumps(text), {"Content-Type": "application/json"}, connection)
                    (answered if answer[0] == 200 else failed).append(answer)
                    if answer[1].get("Connection") == "close":
                        break
            except (ConnectionError, http.client.HTTPException) as error:
                failed.append(error)

    clients = [threading.Thread(target=load, args=(number,)) for number in range(32)]
    for client in clients:
        client.start()
    time.sleep(1)
    half = service.socket()  # a request that began before the signal
    body = json.dumps({"text": TEXTS[0]}).encode()
    request = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    half.sendall(request[:30])
    time.sleep(0.2)
    service.job.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    two = service.socket()  # two requests in one packet
    two.sendall(request + request)
    assert "draining" in service.get("/readyz", 503)
    answers = b"".join(iter(lambda: two.recv(10_000), b""))
    assert answers.count(b"HTTP/1.1 200") == 2 and answers.count(b"Connection: close") == 1, answers
    half.sendall(request[30:])
    assert half.recv(12) == b"HTTP/1.1 200"
    output, _ = service.job.communicate(timeout=30)
    stop.set()
    for client in clients:
        client.join()
    assert service.job.returncode == 0 and "all requests are answered" in output, output
    assert len(answered) > 100 and not failed, (len(answered), failed[:3])
    print(f"{len(answered)} requests answered before it ended")


def cut_off():
    """After --drain-seconds, the service reports how many connections it cut off."""
    with serving("one", "--drain-seconds=1.2") as service:
        half = service.socket()
        half.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n")
        time.sleep(0.1)
        service.job.send_signal(signal.SIGTERM)
        output, _ = service.job.communicate(timeout=30)
        assert service.job.returncode == 1 and "1 connections were cut off" in output, output


def engine_fails():
    """The engine fails on the first of two ranks while the other waits for it: both end, with the reason."""
    plugin = os.environ["CONCLAVE_BUILD"] + "/tests/libfaulty.so"
    train(2, "faulty", f"run.plugins={plugin}", 'moe.expert="1 faulty, 3 feed_forward"', "train.steps=2")
    with serving("faulty", "--set", f"run.plugins={plugin}", ranks=2) as service:
        service.post("classify", {"text": TEXTS[0]})
        Path("fault").touch()
        connection = service.socket()
        body = b'{"text": "a"}'
        head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        output, _ = service.job.communicate(timeout=30)
        assert service.job.returncode not in (0, 134) and "forward: the forward pass's own words" in output, output
        assert "terminate called" not in output, output


def secured():
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", "key.pem", "-out", "certificate.pem", "-subj", "/CN=localhost"])
    run(["openssl", "pkey", "-in", "key.pem", "-aes256", "-passout", "pass:secret", "-out", "locked.pem"])
    run([PROGRAM, "serve", "one", "--certificate=certificate.pem", "--key=locked.pem"], status=1, says=["it is encrypted"])
    run([PROGRAM, "serve", "one", "--log=nowhere/access.jsonl"], status=1, says=["nowhere/access.jsonl", "cannot be opened"])
    for option in ("--token-file", "--key", "--certificate"):
        run([PROGRAM, "serve", "one", option, ""], status=2, says=["the name is empty"])
    Path("token").write_text("open%73esame-open-sesame\n")
    run([PROGRAM, "serve", "one", "--token-file=token"], status=1, says=["of letters, digits and -._~+/="])
    Path("token").write_text("open-sesame-open-sesame\n")
    options = ["--certificate=certificate.pem", "--key=key.pem", "--token-file=token"]
    with serving("one", *options) as service:
        asks = [PROGRAM, "load", f"https://localhost:{service.port}", "--seconds=0.1", "--token-file=token"]
        run(asks, status=1, says=["its certificate is signed by an unknown authority"])
        for how in ("--insecure", "--ca=certificate.pem"):
            run([*asks, how], says=["0 refused, 0 failed"])
    with serving("one", *options, "--rate=0.05", "--burst=8", "--log=access.jsonl") as service:
        right = {"Authorization": "bearer open-sesame-open-sesame"}
        assert service.post("classify", {"text": TEXTS[0]}, headers=right)["class"]
        for wrong in ({}, {"Authorization": "Bearer open-sesame-open-sesamf"}, {"Authorization": "Basic open"}):
            assert service.post("classify", {"text": TEXTS[0]}, 401, wrong)["code"] == "unauthorized"
        for ask in (b"", b"Expect: 100-continue\r\n"):  # the refusal does not wait for the body
            early = service.connect()
            early.connect()
            early.sock.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n" + ask + b"Content-Length: 1000000\r\n\r\n")
            assert b"HTTP/1.1 401" == early.sock.recv(12), "who has no token may send"
        assert service.get("/healthz") and service.get("/metrics")
        for head, status in (b"GET HTTP/1.1", b"400"), (b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999", b"413"):
            early = service.connect()
            early.connect()
            early.sock.sendall(head + b"\r\n\r\n")
            assert early.sock.recv(12) == b"HTTP/1.1 " + status, head
        got = [service.ask("POST", "/v1/classify", "{}", {**right, "Content-Type": "application/json"}) for _ in range(8)]
        assert got[-1][0] == 429 and 1 <= int(got[-1][1]["Retry-After"]) <= 20, got
        assert "sesame" not in Path("access.jsonl").read_text()
        log = [json.loads(line) for line in open("access.jsonl")]
        assert {entry["address"] for entry in log} == {"127.0.0.1"}, log
        others = [(entry["path"], entry["status"]) for entry in log if entry["path"] not in ("/v1/classify", "/healthz", "/metrics")]
        assert others == [("", 400), ("/v1/embed", 413)], others
        asked = [entry["status"] for entry in log if (entry["method"], entry["path"]) == ("POST", "/v1/classify")]
        assert asked[:6] == [200, 401, 401, 401, 401, 401] and asked[-1] == 429, asked
        assert log[0]["seconds"] > 0 and log[0]["bytes_out"] > 100 and abs(log[0]["time"] - time.time()) < 100, log[0]
        plain = service.socket()
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            assert not plain.recv(12).startswith(b"HTTP")
        except ConnectionResetError:
            pass
        old = subprocess.run(["openssl", "s_client", "-tls1_2", "-connect", f"{service.host}:{service.port}"],
                             input="", capture_output=True, text=True)
        assert old.returncode != 0, "TLS 1.2 is taken"


def renewed():
    """SIGHUP makes the service read a new certificate, key and token, and reopen a log that was moved."""

    def certificate(name):
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-keyout", "renewed.key", "-out", "renewed.pem", "-subj", f"/CN={name}"])
        return ssl.PEM_cert_to_DER_cert(Path("renewed.pem").read_text())

    def hang_up(*says):
        service.job.send_signal(signal.SIGHUP)
        for words in says:
            line = service.job.stdout.readline()
            assert words in line, line

    def shown(connection):
        connection.connect()
        return connection.sock.getpeercert(binary_form=True)

    def ask(token, status, connection=None):
        return service.post("embed", {"text": TEXTS[0]}, status, {"Authorization": f"Bearer {token}"}, connection)

    old, new = "the-token-of-yesterday", "the-token-of-tomorrow"
    first = certificate("first")
    Path("renewed.token").write_text(old)
    files = ["--certificate=renewed.pem", "--key=renewed.key", "--token-file=renewed.token", "--log=renewed.jsonl"]
    with serving("one", *files) as service:
        kept = service.connect()
        assert shown(kept) == first
        ask(old, 200, kept)
        second = certificate("second")
        Path("renewed.token").write_text(new)
        os.rename("renewed.jsonl", "moved.jsonl")
        assert shown(service.connect()) == first, "it was not asked to read again"
        hang_up("certificate and key are read again", "the token is read again", "the log's file is opened again")
        assert shown(service.connect()) == second
        assert ask(old, 401)["code"] == "unauthorized"
        ask(new, 200, kept)  # an open connection continues
        assert len(Path("moved.jsonl").read_text().splitlines()) == 1
        assert len(Path("renewed.jsonl").read_text().splitlines()) == 2
        # Certificate and token are renewed independently, and an invalid one does not replace the former: a truncated
        # certificate, one that does not match the key, and a token that is too short.
        Path("renewed.pem").write_text("torn")
        Path("renewed.token").write_text(old)
        hang_up("no PEM file of a certificate", "the token is read again", "the log's file")
        assert shown(service.connect()) == second
        ask(old, 200)
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "other.key", "-out",
             "renewed.pem", "-subj", "/CN=other"])
        Path("renewed.token").write_text("short")
        hang_up("or not the key of the certificate", "of 16 characters or more", "the log's file")
        assert shown(service.connect()) == second
        ask(old, 200)
    # With nothing to renew, SIGHUP ends the service, unless it was started with SIGHUP ignored.
    for ignored in (False, True):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        with serving("one") as service:
            signal.signal(signal.SIGHUP, before)
            if ignored:
                service.job.send_signal(signal.SIGHUP)
                time.sleep(0.5)
                assert service.get("/readyz") == "ready\n"
            else:
                service.end(signal.SIGHUP)


def behind_a_proxy():
    """Each client has its own rate limit, by the X-Forwarded-For of a trusted proxy. From others, it is ignored."""
    for known in (True, False):
        log = f"proxied{known}.jsonl"
        with serving("one", "--rate=0.01", "--burst=2", f"--log={log}", "--proxy=127.0.0.1" if known else "--proxy=192.0.2.1") as service:
            asks = lambda client: service.ask(
                "POST", "/v1/embed", json.dumps({"text": "a"}), {"Content-Type": "application/json", "X-Forwarded-For": client}
            )[0]
            got = [asks(client) for client in ("10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.9, 10.0.0.2")]
            assert got == [200, 200, 429, 200 if known else 429], (known, got)
        seen = [json.loads(line)["address"] for line in open(log)]
        assert seen == (["10.0.0.1"] * 3 + ["10.0.0.2"] if known else ["127.0.0.1"] * 4), seen
    run([PROGRAM, "serve", "one", "--proxy=proxy.example"], status=1, says=["--proxy proxy.example: expected an IP address"])


def ask_together(service, clients, texts):
    """Runs `clients` clients at once, each sending all texts in turn; returns [(status, headers, body)]."""
    answers = []

    def ask():
        for text in texts:
            answers.append(service.ask("POST", "/v1/classify", json.dumps({"text": text}), {"Content-Type": "application/json"}))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == clients * len(texts), len(answers)
    return answers


def busy():
    """When the queue is full, further requests get a 503 at once, and every request gets an answer."""
    with serving("one", "--max-waiting=2", "--max-batch=1") as service:
        answers = ask_together(service, 16, [" ".join(TEXTS[:30])] * 20)
        for status, headers, _ in answers:
            assert status == 200 or (status == 503 and headers["Retry-After"] == "1"), (status, headers)
        assert {status for status, *_ in answers} == {200, 503}


def few_threads():
    """Requests that wait take no threads, however many there may be."""
    with serving("one", "--max-waiting=4096") as service:
        answers = ask_together(service, 200, TEXTS[:3])
        assert {status for status, *_ in answers} == {200}, answers[:3]
        # Those of a batch leave their cores soon to those of connections.
        if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
            assert b"GOMP_SPINCOUNT=6000" in Path(f"/proc/{service.first_rank}/environ").read_bytes().split(b"\0")
        status = Path(f"/proc/{service.first_rank}/status").read_text()
        assert int(re.search(r"Threads:\s+(\d+)", status)[1]) < 100, status


def bound():
    """Each of the engine's threads has a core of its own, and those of connections may run on any."""
    cores = os.sched_getaffinity(0)
    settings = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "OMP_DYNAMIC"}
    if len(cores) == 1 or settings & set(os.environ):
        return
    with patch.dict(os.environ, OMP_NUM_THREADS=str(len(cores))), serving("one") as service:
        service.post("classify", {"text": TEXTS[0]})
        allowed = [os.sched_getaffinity(int(thread)) for thread in os.listdir(f"/proc/{service.first_rank}/task")]
        assert sorted(min(one) for one in allowed if len(one) == 1) == sorted(cores), allowed
        assert sum(one == cores for one in allowed) > 10, allowed


def odd_batches():
    """Memory suffices for every --batch-tokens, also one that is no multiple of the length of texts."""
    for tokens in (127, 250):
        with serving("one", f"--batch-tokens={tokens}") as service:
            for status, _, body in ask_together(service, 40, TEXTS[:10]):
                assert status == 200, (tokens, body)


def main():
    prepare()
    TEXTS.extend(json.loads(line)["text"] for line in open("texts.jsonl"))
    train(1, "one", "train.steps=60")
    run([PROGRAM, "serve", "one", "--tasks=caption"], status=1, says=["--tasks caption", "not learned to caption"])
    run([PROGRAM, "serve", "one", "--tasks=sing"], status=2, says=["sing not in {classify,caption,generate,embed}"])
    run([PROGRAM, "serve", "one", "--key=key.pem"], status=1, says=["give both, or neither"])
    run([PROGRAM, "serve", "nowhere"], status=1, says=["nowhere"])
    run([PROGRAM, "serve", "one", "--port=1", "--host=192.0.2.1"], status=1, says=["cannot listen"])
    with serving(Path("one").resolve()) as service:
        same_as_predict(service)
        forms(service)
        refusals(service)
        other_sites(service)
        forms_that_take_long(service)
        ranges(service)
        loads(service)
        assert service.metric("conclave_rows_total") > 0
        drain(service)
    bench()
    crowds()
    too_slow()
    cut_off()
    engine_fails()
    secured()
    renewed()
    behind_a_proxy()
    busy()
    few_threads()
    bound()
    odd_batches()


if __name__ == "__main__":
    main()
