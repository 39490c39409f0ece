"""A service of one model that classifies, captions and generates images gives the same answers as the commands, on one
rank and on two."""

import base64
import json
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy

from e2e.images_test import png, png_rows, prepare, train, write_png
from e2e.tasks_test import TASKS
from runs import PROGRAM, run
from serving import base64_of, serving

FILES = [f"{number}.png" for number in range(6)]


def write_images():
    for number, name in enumerate(FILES):
        grey = [(255,) if y == number else (30,) for y in range(8) for _ in range(8)]
        write_png(name, 8, grey)


def questions():
    """Pairs (task, question) that services on one rank and on several must answer alike."""
    images = [{"image": base64_of(name)} for name in FILES]
    for image in images:
        yield "classify", {**image, "top": 10}
        yield "classify", {**image, "experts": True}
        yield "embed", image
        yield "caption", image
    yield "caption", {**images[0], "beam": 3, "length_penalty": 0, "experts": True}
    yield "caption", {**images[0], "top_p": 0.9, "seed": 3}
    yield "generate", {"text": "Bag", "count": 3, "steps": 2, "seed": 5}
    yield "generate", {"text": "ankle boot", "steps": 2, "experts": True}


def commands_agree(service):
    lines = run([PROGRAM, "predict", "all", *[f"--image={name}" for name in FILES]]).splitlines()
    for name, line in zip(FILES, map(json.loads, lines)):
        got = service.post("classify", {"image": base64_of(name)})
        assert got["class"] == line["class"] and abs(got["probability"] - line["probability"]) < 1e-6, (got, line)
    lines = run([PROGRAM, "caption", "all", *[f"--image={name}" for name in FILES], "--beam=2"]).splitlines()
    for name, line in zip(FILES, map(json.loads, lines)):
        got = service.post("caption", {"image": base64_of(name), "beam": 2})
        assert got["caption"] == line["caption"], (got, line)
        assert abs(got["log_probability"] - line["log_probability"]) < 1e-4, (got, line)
    run([PROGRAM, "generate", "all", "--text=Bag", "--count=4", "--steps=2", "--seed=7", "--scale=1"])
    body = json.dumps({"text": "Bag", "count": 4, "steps": 2, "seed": 7})
    status, headers, png = service.ask("POST", "/v1/generate?format=png", body, {"Content-Type": "application/json"})
    assert (status, headers["Content-Type"]) == (200, "image/png"), (status, png)
    assert png == Path("generated.png").read_bytes()


def loads(service):
    """`conclave load` asks with images, with texts, or with both, which this model does not take."""
    def load(*options, **told):
        return run([PROGRAM, "load", f"http://{service.host}:{service.port}", "--seconds=0.3", *options], **told)

    images = [f"--images={name}" for name in FILES]
    for options in (["--task=caption", *images], images, ["--task=generate", "--words=3"]):
        before = service.metric("conclave_request_seconds_count")
        load(*options, says=["0 refused, 0 failed"])
        assert service.metric("conclave_request_seconds_count") > before, options
    load("--task=caption", status=1, says=["caption takes images", "--images"])
    load("--task=caption", "--images=none.png", status=1, says=["none.png", "name an image"])
    for options in (["--words=3"], ["--texts=lines.txt", *images]):
        load(*options, status=1, says=["the status of what was refused is 400"])


def bad_images(service):
    def refused(code, image, task="classify", status=400):
        error = service.post(task, {"image": image}, status)
        assert error["code"] == code, (code, error)

    whole = Path(FILES[0]).read_bytes()
    refused("bad_image", "no base64!")
    refused("bad_image", base64.b64encode(b"GIF89a").decode())
    refused("bad_image", base64.b64encode(whole[: len(whole) // 2]).decode())
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    huge = whole[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + whole[33:]
    for task in ("classify", "caption"):
        refused("image_too_large", base64.b64encode(huge).decode(), task, 413)
    assert service.post("caption", {"text": "a"}, 400)["code"] == "unwanted_field"
    assert service.post("generate", {"text": "a", "count": 100}, 400)["code"] == "bad_option"
    form = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="0.png"\r\nContent-Type: image/png\r\n\r\n'
        + whole
        + b"\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, _, body = service.ask("POST", "/v1/classify", form, headers)
    assert status == 200 and json.loads(body)["class"] == service.post("classify", {"image": base64_of(FILES[0])})["class"]
    assert service.ask("POST", "/v1/classify", form[:-10], headers)[0] == 400


def photos(service):
    """A burst of photos, of which few fit into memory at once, waits and is answered."""
    side = 3500
    photo = png(side, side, 1, bytes(side * (side + 1)))
    question = {"image": base64.b64encode(photo).decode()}
    with ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(lambda _: service.post("classify", question), range(40)))
    assert all(answer == answers[0] for answer in answers), answers


def drawings_make_way(service):
    """A query for a class during image generation waits for one step of it and does not change the images."""
    drawing, image = {"text": "Bag", "count": 16, "steps": 16, "seed": 5}, {"image": base64_of(FILES[0])}
    alone, wanted, drawn, answered = service.post("generate", drawing), service.post("classify", image), [], 0
    artist = threading.Thread(target=lambda: drawn.append(service.post("generate", drawing)))
    artist.start()
    connection = service.connect()
    while not drawn:
        assert service.post("classify", image, connection=connection) == wanted
        answered += not drawn
    artist.join()
    assert drawn == [alone], "what was answered between the steps changed the images"
    assert answered >= 6, f"{answered} queries were answered while images were drawn"


def forsaken(service):
    """What nobody waits for is not computed, and a drawing that has begun ends early. Such requests are counted as 499."""
    before = service.metric("conclave_rows_total")
    body = json.dumps({"text": "Bag", "count": 16, "steps": 16})
    for _ in range(5):
        connection = service.connect()
        connection.request("POST", "/v1/generate", body, {"Content-Type": "application/json"})
        connection.close()
    limit = time.monotonic() + 30
    while 'conclave_requests_total{status="499",task="generate"} 5\n' not in service.get("/metrics"):
        assert time.monotonic() < limit, service.get("/metrics")
        time.sleep(0.02)
    assert service.metric("conclave_rows_total") == before
    assert service.post("generate", {"text": "Bag", "steps": 1})["images"]


def alike(one, other, where=""):
    """Checks that two answers are equal up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), (where, one, other)
        for key in one:
            alike(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), (where, one, other)
        for a, b in zip(one, other):
            alike(a, b, where)
    elif isinstance(one, float):
        assert abs(one - other) <= 1e-4 * max(1, abs(one)), (where, one, other)
    elif where.endswith(".images"):  # rounding may change pixels by a level or two
        one, other = (numpy.array(png_rows(base64.b64decode(image))) for image in (one, other))
        assert one.shape == other.shape and abs(one - other).max() <= 2, (where, one, other)
    else:
        assert one == other, (where, one, other)


def skewed():
    """All rows go to a few experts, more than their ranks can receive at a time, so they are sent in rounds."""
    write_png("black.png", 8, [(0,)] * 64)
    train(1, "skewed", *TASKS, "moe.experts=8", "model.ffn=2048", "model.layers=2", "train.steps=1")
    tight = ["--tasks=classify,caption", "--batch-tokens=64", "--set", "moe.capacity_factor=0.25"]
    with serving("skewed", *tight, ranks=4) as service, ThreadPoolExecutor(48) as clients:
        question = {"image": base64_of("black.png")}
        answers = list(clients.map(lambda _: service.post("classify", question)["class"], range(384)))
        assert len(set(answers)) == 1, set(answers)


def main():
    prepare()
    write_images()
    train(1, "all", *TASKS)
    with serving("all") as service:
        assert "classify, caption, generate, embed" in service.line, service.line
        commands_agree(service)
        Path("lines.txt").write_text("ankle boot\nbag\n")
        loads(service)
        bad_images(service)
        photos(service)
        answers = [service.post(*question) for question in questions()]
        for answer in answers:
            for layer in answer.get("experts", []):
                assert len(layer["rows"]) == 4 and sum(layer["rows"]) > 0, answer
        classes = json.loads(json.dumps(answers[0]))
        assert abs(sum(c["probability"] for c in classes["top"]) - 1) < 1e-5, classes
    with serving("all", ranks=2) as service:
        assert "on 2 ranks" in service.line, service.line
        for question, answer in zip(questions(), answers):
            alike(answer, service.post(*question), question[0])
    # Only tasks that take steps, so that their memory is not planned by another task.
    for ranks in (1, 2):
        for task in ("caption", "generate"):
            with serving("all", f"--tasks={task}", ranks=ranks) as service:
                refused = service.post("classify", {"image": base64_of(FILES[0])}, 404)
                assert refused["code"] == "task_not_served" and f"does {task}" in refused["message"], refused
                for question, answer in zip(questions(), answers):
                    if question[0] == task:
                        alike(answer, service.post(*question), task)
    skewed()
    train(1, "slow", *TASKS, "generate.patch=1", "model.hidden=128", "model.layers=2", "train.steps=2")
    for ranks in (1, 2):
        with serving("slow", ranks=ranks) as service:
            drawings_make_way(service)
            forsaken(service)


if __name__ == "__main__":
    main()
