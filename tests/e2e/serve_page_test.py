"""The page at / in a headless browser shows classes, captions, images and experts."""

import base64
import html
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


def page(service, fragment=""):
    """The rendered page, as HTML."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={Path.cwd()}/browser", "--virtual-time-budget=20000", "--dump-dom"]
    address = f"{service.scheme}://{service.host}:{service.port}/{fragment}"
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def linked(task, **fields):
    return f"#task={task}" + "".join(f"&{name}={quote(value, safe='')}" for name, value in fields.items())


def main():
    if not CHROMIUM:
        sys.exit("chromium is missing; scripts/setup --test installs it")
    prepare()
    write_images()
    train(1, "all", *TASKS)
    image = "data:image/png;base64," + base64_of(FILES[3])
    with serving("all") as service:
        empty = page(service)
        assert "Type a text, drop an image" in empty and 'class="bar"' not in empty, empty

        wanted = service.post("classify", {"image": base64_of(FILES[3]), "experts": True})
        shown = page(service, linked("classify", image=image))
        for one in wanted["top"]:
            row = f"<td>{html.escape(one['class'])}</td>"
            assert row in shown and f"{100 * one['probability']:.1f} %" in shown, (one, shown)
        assert shown.count('class="bar"') == len(wanted["top"]), shown
        for layer in wanted["experts"]:
            assert f"Experts of {layer['layer']}" in shown, shown
            for number, rows in enumerate(layer["rows"]):
                assert f"expert {number}: {rows} of {sum(layer['rows'])} rows" in shown, (layer, shown)

        caption = service.post("caption", {"image": base64_of(FILES[3])})["caption"]
        shown = page(service, linked("caption", image=image))
        assert f'<p id="caption">{html.escape(caption)}</p>' in shown, (caption, shown)

        wanted = service.post("generate", {"text": "Bag", "count": 4})["images"]
        shown = page(service, linked("generate", text="Bag"))
        images = re.findall(r'src="data:image/png;base64,([^"]+)" alt="drawn"', shown)
        assert images == wanted and base64.b64decode(images[0])[:4] == b"\x89PNG", (len(images), shown[:500])
        vector = service.post("embed", {"image": base64_of(FILES[3])})["embedding"]
        shown = page(service, linked("embed", image=image))
        assert f"Embedding: {len(vector)} numbers" in shown and ", ".join(f"{x:.3f}" for x in vector[:2]) in shown, (vector[:2], shown)

        shown = page(service, linked("generate"))
        assert "text: generate needs one" in re.search(r'<p id="error"[^>]*>(.*?)</p>', shown)[1], shown
    with serving("all", "--tasks=classify") as service:  # tasks that are not served have no buttons
        shown = page(service, linked("classify", image=image))
        assert 'data-task="classify"' in shown and 'data-task="caption"' not in shown, shown
        assert re.search(r'<textarea id="text"[^>]* hidden', shown), shown  # the model classifies images alone
        assert not re.search(r'<div id="drop"[^>]* hidden', shown), shown


if __name__ == "__main__":
    main()
