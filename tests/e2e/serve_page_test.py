"""The page at / in a headless browser shows classes, captions, images and experts."""

import base64
import contextlib
import fcntl
import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from e2e.images_test import prepare, train
from e2e.serve_tasks_test import FILES, write_images
from e2e.tasks_test import TASKS
from serving import base64_of, serving

CHROMIUM = shutil.which("chromium")


# Returns the page as HTML: once it has asked what the model can do, and after a click on CLICKED, once that is answered.
LOOK = """(async clicked => {
  const until = async holds => { while (!holds()) await new Promise(then => setTimeout(then, 20)); };
  await until(() => performance.getEntriesByName(new URL("v1", location.href).href).length > 0);
  await new Promise(then => setTimeout(then, 200));
  if (clicked) {
    document.querySelector(`[data-task=${clicked}]`).click();
    await until(() => !document.querySelector("[data-task]:disabled"));
  }
  return document.documentElement.outerHTML;
})"""


class Browser:
    """A headless browser, which takes commands of the DevTools protocol through a pipe."""

    def __init__(self, process, to, answers):
        self.process, self.to, self.answers, self.sent, self.events = process, to, answers, 0, set()

    def said(self):
        message = bytearray()
        while not message.endswith(b"\0"):
            piece = self.answers.read(1)
            assert piece, f"the browser ended: {self.process.poll()}"
            message += piece
        return json.loads(message[:-1])

    def call(self, method, session=None, **parameters):
        self.sent += 1
        command = {"id": self.sent, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        self.to.write(json.dumps(command).encode() + b"\0")
        self.to.flush()
        while (said := self.said()).get("id") != self.sent:
            self.events.add(said.get("method"))
        return said["result"]

    def page(self, address, clicked=None):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable", session)
        self.events.clear()
        self.call("Page.navigate", session, url=address)
        while "Page.loadEventFired" not in self.events:
            self.events.add(self.said().get("method"))
        look = f"{LOOK}({json.dumps(clicked)})"
        shown = self.call("Runtime.evaluate", session, expression=look, awaitPromise=True)["result"]["value"]
        self.call("Target.closeTarget", targetId=target)
        return shown


@contextlib.contextmanager
def browsing():
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={Path.cwd()}/browser", "--remote-debugging-pipe"]
    (commands, to), (answers, told) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, told)]  # the browser has its ends as 3 and 4
    os.close(commands), os.close(told)
    start = ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", *command]
    with open("browser.log", "w") as log, open(to, "wb") as to, open(answers, "rb") as answers:
        process = subprocess.Popen(start, pass_fds=high, stdout=log, stderr=log)
        for end in high:
            os.close(end)
        try:
            yield Browser(process, to, answers)
        finally:
            process.kill()
            process.wait()


def page(browser, service, fragment="", clicked=None):
    """The page, as HTML, after a click on the button of a task, if one is given."""
    return browser.page(f"{service.scheme}://{service.host}:{service.port}/{fragment}", clicked)


def answer(browser, service, task, **fields):
    return page(browser, service, linked(task, **fields), task)


def linked(task, **fields):
    return f"#task={task}" + "".join(f"&{name}={quote(value, safe='')}" for name, value in fields.items())


def main():
    if not CHROMIUM:
        sys.exit("chromium is missing; scripts/setup --test installs it")
    prepare()
    write_images()
    train(1, "all", *TASKS)
    image = "data:image/png;base64," + base64_of(FILES[3])
    with browsing() as browser, serving("all") as service:
        empty = page(browser, service)
        assert "Type a text, drop an image" in empty and 'class="bar"' not in empty, empty

        wanted = service.post("classify", {"image": base64_of(FILES[3]), "experts": True})
        asked = page(browser, service, linked("classify", image=image))  # by any site, so nothing is asked yet
        assert image in asked and 'disabled=""' not in asked and 'class="bar"' not in asked, asked
        shown = answer(browser, service, "classify", image=image)
        for one in wanted["top"]:
            row = f"<td>{html.escape(one['class'])}</td>"
            assert row in shown and f"{100 * one['probability']:.1f} %" in shown, (one, shown)
        assert shown.count('class="bar"') == len(wanted["top"]), shown
        for layer in wanted["experts"]:
            assert f"Experts of {layer['layer']}" in shown, shown
            for number, rows in enumerate(layer["rows"]):
                assert f"expert {number}: {rows} of {sum(layer['rows'])} rows" in shown, (layer, shown)

        caption = service.post("caption", {"image": base64_of(FILES[3])})["caption"]
        shown = answer(browser, service, "caption", image=image)
        assert f'<p id="caption">{html.escape(caption)}</p>' in shown, (caption, shown)

        wanted = service.post("generate", {"text": "Bag", "count": 4})["images"]
        shown = answer(browser, service, "generate", text="Bag")
        images = re.findall(r'src="data:image/png;base64,([^"]+)" alt="drawn"', shown)
        assert images == wanted and base64.b64decode(images[0])[:4] == b"\x89PNG", (len(images), shown[:500])
        vector = service.post("embed", {"image": base64_of(FILES[3])})["embedding"]
        shown = answer(browser, service, "embed", image=image)
        assert f"Embedding: {len(vector)} numbers" in shown and ", ".join(f"{x:.3f}" for x in vector[:2]) in shown, (vector[:2], shown)

        shown = answer(browser, service, "generate")
        assert "text: generate needs one" in re.search(r'<p id="error"[^>]*>(.*?)</p>', shown)[1], shown
    with browsing() as browser, serving("all", "--tasks=classify") as service:  # tasks that are not served have no buttons
        shown = answer(browser, service, "classify", image=image)
        assert 'data-task="classify"' in shown and 'data-task="caption"' not in shown, shown
        assert re.search(r'<textarea id="text"[^>]* hidden', shown), shown  # the model classifies images alone
        assert not re.search(r'<div id="drop"[^>]* hidden', shown), shown


if __name__ == "__main__":
    main()
