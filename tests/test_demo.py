"""The demo in a real browser: digits drawn by mouse, pictures dropped, and what it refuses."""

import asyncio
import base64
import contextlib
import copy
import http.client
import io
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import webbrowser
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile

from jaxmnist import demo
from jaxmnist.data import datasets, pictures, png
from jaxmnist.errors import UserError
from jaxmnist.trained import inference
from tests.trained.test_inference import boxes_of, doubt, side_by_side, untrained

pytest.importorskip("starlette", reason="needs the extra demo")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra demo")

PAGE = Path(demo.__file__).with_name("demo.html").read_text(encoding="utf-8")


@contextlib.contextmanager
def served(app):
    """The host and port of an application's server, in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield listening.getsockname()[:2]
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(model):
    """The host and port of a running demo."""
    with served(demo.create_app(model)) as found:
        yield found


@pytest.fixture(scope="module")
def clothes(model):
    """The model as one of Fashion-MNIST."""
    clothes = copy.copy(model)
    clothes.preparation = datasets.preparation("fashion_mnist")
    clothes.class_names = datasets.class_names("fashion_mnist")
    return clothes


def ask(address, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request(method, path, body, headers or {})
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    return reply.status, reply.headers, data


def test_a_picture_is_answered_and_what_is_none_is_explained(address, model, test_split):
    for image in test_split.images[:3]:
        status, _, data = ask(address, "POST", "/predict", png.encode(image))
        found, wanted = json.loads(data), model.predict(image)
        assert status == 200
        assert found["classes"] == wanted.classes
        np.testing.assert_allclose(found["probabilities"], wanted.probabilities, atol=1e-5)
        assert found["labels"] == [str(digit) for digit in range(10)]
    for body in (b"", b"hello", png.encode(image)[:99]):
        status, _, data = ask(address, "POST", "/predict", body)
        assert status == 422
        assert re.fullmatch(r"the picture .*\.", json.loads(data)["error"])


def test_only_the_page_is_served_and_only_to_those_who_ask_for_it_here(address):
    status, headers, data = ask(address, "GET", "/")
    assert status == 200
    assert b"<canvas" in data
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for path in (
        "/demo.html",
        "/demo.py",
        "/../../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/file=/etc/passwd",
    ):
        assert ask(address, "GET", path)[0] == 404
    assert ask(address, "GET", "/", headers={"Host": "elsewhere.example"})[0] == 400
    assert ask(address, "GET", "/predict")[0] == 405
    with socket.socket() as elsewhere:  # Another address of the loopback range.
        assert elsewhere.connect_ex(("127.0.0.2", address[1]))


def test_a_picture_over_the_limit_is_refused(address):
    status, _, data = ask(address, "POST", "/predict", bytes(demo.MAX_BYTES + 1))
    assert (status, json.loads(data)["error"]) == (413, "the picture has more than 10 MB.")
    assert ask(address, "GET", "/")[0] == 200


def test_the_command_serves_the_page(command, trained, test_split):
    run = command("demo", "--no_browser", workdir=trained, port=0)
    line = run.process.stdout.readline()
    found = re.fullmatch(r"draw a digit on http://(127\.0\.0\.1):(\d+)/ \(Ctrl-C stops\)\n", line)
    assert found, run.process.communicate()
    address = found[1], int(found[2])
    page = ask(address, "GET", "/")[2].decode()
    results = json.loads((trained / "results.json").read_text())
    accuracy = f"{100 * results['test']['accuracy']:.2f} %"
    assert f"{trained}: mnist_sample, step 120, test accuracy {accuracy}<" in page
    assert ask(address, "POST", "/predict", png.encode(test_split.images[0]))[0] == 200


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_the_model_has_answered_before_the_page_opens(
    dataset, trained, model, clothes, monkeypatch, capsys
):
    """To a picture of something, so that the first stroke waits for no compilation."""
    loaded, events = {"mnist": model, "fashion_mnist": clothes}[dataset], []

    def logits(self, inputs):
        events.append(f"answered {inputs.shape}{shown()}")
        return np.zeros((1, 10), np.float32)

    def shown():
        return capsys.readouterr().out

    monkeypatch.setattr(type(model), "logits", logits)
    monkeypatch.setattr(inference, "load", lambda _: loaded)
    monkeypatch.setattr(webbrowser, "open", lambda url: events.append(f"opened {url}"))
    monkeypatch.setattr(uvicorn.Server, "run", lambda _, sockets: sockets[0].close())
    assert demo.main([f"--workdir={trained}", "--port=0"]) == 0
    url = re.search("http://[^ ]*", shown())[0]
    assert events == ["answered (1, 28, 28, 1)", f"opened {url}"]


def test_a_port_in_use_is_told_of(address, trained, capsys):
    assert demo.main(["--no_browser", f"--workdir={trained}", f"--port={address[1]}"]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: cannot listen on 127\.0\.0\.1, port \d+ .*\.\n", error)


def call(app, method, path, body=b"", headers=None, receive=None):
    """What an application answers, without a server: the status and the body's text."""
    headers = {"host": "127.0.0.1:7860"} | (headers or {})
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    sent = []

    async def whole():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive or whole, send))
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent[1:]).decode()


def test_only_its_own_page_is_answered(model, test_split):
    app, picture = demo.create_app(model), png.encode(test_split.images[0])
    for headers, status in [
        ({}, 200),  # No browser.
        ({"origin": "http://127.0.0.1:7860"}, 200),
        ({"origin": "http://elsewhere.example"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://demo.example", "sec-fetch-site": "same-origin"}, 200),  # A proxy's.
        ({"origin": "http://127.0.0.1:7860", "sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ]:
        found, text = call(app, "POST", "/predict", picture, headers)
        assert found == status, (headers, text)
        assert status == 200 or "answers its own page alone" in text
    assert call(app, "GET", "/", headers={"origin": "http://elsewhere.example"})[0] == 200


@pytest.mark.parametrize(
    ("host", "asked", "status"),
    [
        ("127.0.0.1", "localhost:7860", 200),
        ("127.0.0.1", "[::1]:7860", 200),
        ("::1", "[::1]:7860", 200),
        ("Demo.example", "demo.example", 200),
        ("0.0.0.0", "demo.example", 200),
        ("::", "demo.example", 200),
        ("127.0.0.1", "demo.example", 400),
        ("127.0.0.1", "[", 400),
        ("127.0.0.1", "", 400),
    ],
)
def test_the_names_that_it_answers_to(model, host, asked, status):
    found, text = call(demo.create_app(model, host), "GET", "/", headers={"host": asked})
    assert found == status
    if status == 400:
        assert f"started with --host={host} and was asked for {asked!r}. Behind a proxy" in text
        assert "--host=0.0.0.0" in text


def test_the_page_has_the_words_of_the_dataset(model, clothes):
    _, digits = call(demo.create_app(model), "GET", "/")
    assert "<h1>Draw a digit</h1>" in digits
    assert ">draw a digit, 0 to 9, here<" in digits
    assert f"setRows({json.dumps(model.class_names)})" in digits
    clothes = copy.copy(clothes)
    clothes.class_names = [*clothes.class_names, "</script>", "ABOUT"]
    _, page = call(demo.create_app(clothes, about="<runs/LABELS>"), "GET", "/")
    assert "<h1>Show a piece of clothing</h1>" in page
    assert "digit<" not in page
    assert '"Sandal"' in page
    assert ', "ABOUT"])' in page
    assert page.count("</script>") == 1
    assert "<footer>&lt;runs/LABELS&gt;</footer>" in page
    assert ">drop a photo here, or draw<" in page
    page = page.replace('"ABOUT"', "")
    assert not re.search("TITLE|HINT|PLACEHOLDER|ABOUT|[^/]LABELS|MAX_BYTES|SEEN_|_PIXEL", page)


def luminance(colour):
    """Relative, as WCAG 2.2 defines it."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    levels = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_bars_are_seen_empty_or_full_in_light_and_dark():
    themes = re.findall(r":root {(.*?)}", PAGE, re.DOTALL)
    assert len(themes) == 2
    assert "border: 1px solid var(--track)" in PAGE
    for theme in themes:
        of = {name: luminance(c) for name, c in re.findall("--(.*?): #([0-9a-f]+);", theme)}
        for name in ("track", "bar", "best"):
            darker, lighter = sorted([of[name], of["card"]])
            assert (lighter + 0.05) / (darker + 0.05) >= 3, (name, theme)


@pytest.mark.parametrize(("method", "level"), [("strokes", 0), ("photo", 0), ("resize", 255)])
def test_what_the_network_sees_of_a_blank_paper(model, method, level):
    """It is put on black, or is white as it is."""
    changed = copy.copy(model)
    changed.preparation = model.preparation | {"method": method}
    _, page = call(demo.create_app(changed), "GET", "/")
    (data,) = re.findall('BLANK = "data:image/png;base64,(.*?)"', page)
    pixel = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    assert pixel.getcolors() == [(1, (level,) * 3)]


def test_the_page_is_read_as_utf_8_in_every_locale():
    assert "Open picture …" in PAGE
    code = (
        "from types import SimpleNamespace; from jaxmnist import demo; "
        "preparation = {'shows': 'x', 'method': 'strokes'}; "
        "model = SimpleNamespace(preparation=preparation, class_names=[], image_shape=(9, 9, 1)); "
        "demo.create_app(model)"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | ascii_only, check=True)


def test_too_many_pixels_are_refused_before_they_are_read(model, monkeypatch):
    large = io.BytesIO()
    Image.new("1", (6000, 5000)).save(large, "PNG")
    assert len(large.getvalue()) < 10_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was read"))
    status, text = call(demo.create_app(model), "POST", "/predict", large.getvalue())
    assert status == 422
    assert json.loads(text)["error"] == (
        "the picture has more than 25,000,000 pixels: give a smaller one."
    )


def test_a_picture_that_does_not_arrive_is_given_up(model):
    async def never():
        await asyncio.Event().wait()

    app = demo.create_app(model, timeout=0.1)
    status, text = call(app, "POST", "/predict", receive=never)
    assert (status, json.loads(text)["error"]) == (408, "the picture did not arrive within 0.1 s.")


def as_file(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_several_digits_and_what_is_unsure_are_answered(model, test_split, monkeypatch):
    image = test_split.images[0]
    one = demo.answer(model, png.encode(image))
    assert one.keys() == {"labels", "classes", "probabilities", "image"}
    doubt(monkeypatch, 0)
    unsure = demo.answer(model, png.encode(image))
    assert unsure == one | {"doubt": "it is not written as digits are"}
    digits = image, test_split.images[1]
    paper = side_by_side(*digits)
    found = demo.answer(model, as_file(paper))
    first, second = found["detections"]
    wanted = boxes_of(*digits) / (*paper.size, *paper.size)
    np.testing.assert_allclose([first["box"], second["box"]], wanted, atol=0.05)
    assert first.keys() - second.keys() == {"doubt"}
    assert found["text"] == f"{first['classes']}{second['classes']}"
    del first["box"]
    assert found.items() >= first.items()
    assert "picture" not in found
    sent = demo.answer(model, as_file(paper, "TIFF"), with_picture=True)["picture"]
    assert Image.open(io.BytesIO(base64.b64decode(sent))).size == paper.size
    empty = pictures.Page(paper.convert("RGB"), paper.size, [])
    monkeypatch.setattr(pictures, "find", lambda *_, **__: empty)
    with pytest.raises(UserError, match=r"the picture shows no digit\."):
        demo.answer(model, as_file(paper))


class Page:
    """The demo's page, as a person uses it."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.set_window_size(1000, 800)
        browser.get("about:blank")
        for log in ("performance", "browser"):
            browser.get_log(log)  # What was before is not the page's.
        browser.get("http://{}:{}/".format(*address))
        self.paper = self.find("#paper")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def names(self):
        return [row.text for row in self.browser.find_elements("css selector", "#rows th")]

    def probabilities(self):
        # In one script: from call to call the page may get another answer.
        script = (
            "return [...document.querySelectorAll('#rows td:last-child')].map(x => x.innerText)"
        )
        return [float(text.removesuffix(" %")) for text in self.browser.execute_script(script)]

    def draw(self, points, release=True):
        """A stroke with the mouse along points from (-1, -1) to (1, 1)."""
        from selenium.webdriver import ActionChains

        half = self.paper.size["width"] / 2
        pixels = [(round(x * half), round(y * half)) for x, y in points]
        actions = ActionChains(self.browser, duration=20)
        actions.move_to_element_with_offset(self.paper, *pixels[0]).click_and_hold()
        for (x0, y0), (x1, y1) in itertools.pairwise(pixels):
            for i in range(8):  # As many events as a hand's.
                actions.move_by_offset(
                    round((x1 - x0) * (i + 1) / 8) - round((x1 - x0) * i / 8),
                    round((y1 - y0) * (i + 1) / 8) - round((y1 - y0) * i / 8),
                )
        (actions.release() if release else actions).perform()

    def wait(self, condition, seconds=10):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.browser, seconds).until(lambda _: condition())

    def pixels(self):
        return self.browser.execute_script("return arguments[0].toDataURL()", self.paper)

    def digit(self):
        return self.find("#digit").text


PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
ONE = [(0.05, -0.65), (-0.05, 0.65)]
SEVEN = [(-0.4, -0.6), (0.4, -0.6), (-0.1, 0.65)]


def test_a_one_and_a_seven_are_drawn_with_the_mouse(browser, address):
    page = Page(browser, address)
    for stroke, digit in ((ONE, "1"), (SEVEN, "7")):
        page.draw(stroke)
        page.wait(lambda digit=digit: page.digit() == digit)
        found = page.probabilities()
        assert int(np.argmax(found)) == int(digit)
        assert sum(found) == pytest.approx(100, abs=1)
        seen = page.find("#seen")
        assert seen.get_property("naturalWidth") == 28
        page.find("#clear").click()
        assert page.digit() == ""
        assert page.probabilities() == [0] * 10
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"
    ]
    home = "http://{}:{}/".format(*address)
    assert any(url == home + "predict" for url in urls)
    assert all(url.startswith((home, "data:")) for url in urls), urls
    # A dot, with which a stroke begins, is no digit.
    errors = [each["message"] for each in browser.get_log("browser")]
    assert [each for each in errors if "status of 422" not in each] == []


def test_nothing_is_missed_while_one_draws(browser, address):
    """Once the pen is up it is said that a dot is no digit."""
    page = Page(browser, address)
    page.draw([(0, 0), (0, 0)], release=False)
    page.wait(lambda: not browser.execute_script("return busy"))
    note = page.find("#note")
    assert note.text == ""
    page.draw([(0, 0), (0, 0)])
    page.wait(lambda: "shows no digit" in note.text)


def test_strokes_are_undone_and_cleared_by_buttons_and_keys(browser, address):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, address)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    hint, undo = page.find("#placeholder"), page.find("#undo")
    assert hint.is_displayed()
    assert not undo.is_enabled()
    page.draw(ONE)
    page.wait(lambda: page.digit() == "1")
    page.wait(lambda: not browser.execute_script("return busy"))  # It has the last answer.
    assert not hint.is_displayed()
    one, found = page.pixels(), page.probabilities()
    page.draw([(-0.6, -0.6), (0.6, -0.6)])
    page.wait(lambda: page.probabilities() != found)
    assert page.pixels() != one
    body = page.find("body")
    body.send_keys(Keys.CONTROL, "z")
    assert page.pixels() == one
    page.wait(lambda: page.probabilities() == found)
    body.send_keys(Keys.ESCAPE)
    assert hint.is_displayed()
    assert page.digit() == ""
    undo.click()  # What was cleared comes back.
    page.wait(lambda: page.digit() == "1")
    assert page.pixels() == one
    undo.click()
    assert hint.is_displayed()
    assert page.probabilities() == [0] * 10
    assert not undo.is_enabled()
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_paper_can_be_focused_and_shows_it(browser, address):
    page = Page(browser, address)
    page.find("body").send_keys("\ue004")  # Tab.
    assert browser.switch_to.active_element == page.paper
    assert page.paper.value_of_css_property("outline-style") == "solid"


def test_the_rows_have_the_names_of_the_model_that_answers(browser, clothes, model):
    changing = copy.copy(clothes)
    with served(demo.create_app(changing)) as address:
        page = Page(browser, address)
        assert page.names() == clothes.class_names
        page.draw(SEVEN)
        page.wait(page.digit)
        assert page.digit() in clothes.class_names
        assert page.names() == clothes.class_names
        # A demo of digits is started in its place.
        changing.preparation, changing.class_names = model.preparation, model.class_names
        page.draw(SEVEN)
        page.wait(lambda: page.digit() == "7")
        assert page.names() == model.class_names


def test_the_probabilities_move_while_one_draws(browser, address):
    page = Page(browser, address)
    page.draw(SEVEN[:2], release=False)
    page.wait(page.digit)
    before = page.probabilities()
    page.draw(SEVEN[1:])
    page.wait(lambda: page.digit() == "7")
    assert page.probabilities() != before


def test_a_picture_can_be_dropped(browser, address, tmp_path, model, test_split):
    page = Page(browser, address)
    image = test_split.images[0]
    (tmp_path / "digit.png").write_bytes(png.encode(image))
    page.find("#file").send_keys(str(tmp_path / "digit.png"))
    page.wait(lambda: page.digit() == str(model.predict(image).classes))
    # A drop, as the browser tells of it.
    other = next(im for im in test_split.images if model.predict(im).classes == 3)
    page.browser.execute_script(
        """
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(arguments[0])], "digit.png"));
        const drop = {dataTransfer: data, bubbles: true, cancelable: true};
        document.body.dispatchEvent(new DragEvent("drop", drop));
        """,
        list(png.encode(other)),
    )
    page.wait(lambda: page.digit() == "3")
    (tmp_path / "notes.txt").write_text("no picture")
    page.find("#file").send_keys(str(tmp_path / "notes.txt"))
    page.wait(lambda: "no picture" in page.find("#note").text)
    assert page.digit() == ""


@pytest.mark.parametrize(
    ("image_shape", "names", "size"),
    [
        ((32, 32, 3), ["a circle", "a very long name of a class of pictures", "x"], (96, 96)),
        ((8, 8, 1), ["no", "yes"], (80, 80)),
        ((24, 48, 3), [f"class {i}" for i in range(100)], (96, 48)),
        ((200, 100, 3), ["no", "yes"], (42, 84)),
    ],
)
def test_a_picture_of_ones_own_data_is_seen_as_the_network_sees_it(
    browser, tmp_path, image_shape, names, size
):
    model = untrained(image_shape, names)
    picture = Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 50)
    picture = Image.merge("RGB", (picture, picture.rotate(180), picture.rotate(90)))
    picture.save(tmp_path / "own.png")
    inputs = pictures.read(picture, "it", model.preparation)
    wanted = model.predict(picture)
    with served(demo.create_app(model)) as address:
        page = Page(browser, address)
        assert page.find("h1").text == "Show a picture"
        assert "drop a picture here" in page.find("#placeholder").text
        assert page.find("#rows").is_displayed() is (len(names) <= 30)
        page.find("#file").send_keys(str(tmp_path / "own.png"))
        page.wait(page.digit)
        assert page.digit() == names[int(wanted.classes)]
        order = np.arange(len(names))
        if len(names) > 30:  # The ten most probable.
            order = np.argsort(-wanted.probabilities, kind="stable")[:10]
        assert page.names() == [names[i] for i in order]
        np.testing.assert_allclose(
            page.probabilities(), 100 * wanted.probabilities[order], atol=0.06
        )
        seen = page.find("#seen")
        data = base64.b64decode(seen.get_attribute("src").partition(",")[2])
        assert np.array_equal(
            Image.open(io.BytesIO(data)), inputs.squeeze(-1) if image_shape[2] == 1 else inputs
        )
        assert (seen.size["width"], seen.size["height"]) == size
        assert seen.get_attribute("alt") == (
            "The {}x{} picture that the network sees".format(*image_shape)
        )
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        # What is drawn is resized as well.
        page.find("#clear").click()
        page.draw(ONE)
        page.wait(page.digit)
        assert sum(page.probabilities()) <= 100.5


@pytest.fixture
def two(model, test_split, monkeypatch):
    """A picture of two digits, of which the second is unsure, what they are, and their boxes."""
    doubt(monkeypatch, 1)
    images = [i for i in test_split.images[:20] if model.predict(i).probabilities.max() > 0.99][:2]
    return side_by_side(*images), model.predict(images).classes.tolist(), boxes_of(*images)


def boxes(page):
    """Left, top, right and bottom of the boxes, in the canvas's pixels of the page, and labels."""
    paper, found = page.paper.rect, page.browser.find_elements("css selector", ".box")
    return [
        (
            each.rect["x"] - paper["x"],
            each.rect["y"] - paper["y"],
            each.rect["x"] + each.rect["width"] - paper["x"],
            each.rect["y"] + each.rect["height"] - paper["y"],
            each.text,
        )
        for each in found
    ]


@pytest.mark.parametrize("kind", ["png", "turned", "tiff"])
def test_boxes_lie_on_the_digits_of_a_picture(browser, address, two, tmp_path, kind):
    """As the browser shows it: upright, in the middle; TIFF it does not show without the server."""
    page, (paper, (first, second), wanted) = Page(browser, address), two
    path, options = tmp_path / f"two.{kind}", {}
    if kind == "turned":
        path, exif = tmp_path / "two.jpg", Image.Exif()
        exif[ExifTags.Base.Orientation] = 6  # To be turned clockwise.
        paper, options = paper.transpose(Image.Transpose.ROTATE_90), {"exif": exif}
    paper.save(path, **options)
    blank = page.pixels()
    page.find("#file").send_keys(str(path))
    page.wait(lambda: page.digit() == f"{first}{second}")
    page.wait(lambda: page.pixels() != blank)
    side = page.paper.size["width"]
    page.wait(lambda: boxes(page)[0][1] > 1)
    wanted = np.add(wanted, (0, 40, 0, 40)) * side / 200  # 200x120 in a square.
    for box, found, label in zip(wanted, boxes(page), (first, f"{second}?"), strict=True):
        np.testing.assert_allclose(found[:4], box, atol=0.1 * (box[3] - box[1]))
        assert found[4] == str(label)
    # Where the boxes are, and only there, is the paper's ink.
    script = "return [...pen.getImageData(0, 0, 280, 280).data].filter((_, i) => i % 4 == 0)"
    rows = (np.reshape(browser.execute_script(script), (280, 280)) < 128).any(1)
    assert 56 <= np.flatnonzero(rows)[0] < np.flatnonzero(rows)[-1] < 224


def test_each_of_several_digits_is_looked_at(browser, address, two, tmp_path):
    """By a click anywhere in its box, or by the keyboard; what is unsure is said."""
    page, (paper, wanted, _) = Page(browser, address), two
    paper.save(tmp_path / "two.png")
    page.find("#file").send_keys(str(tmp_path / "two.png"))
    page.wait(lambda: page.digit() == "{}{}".format(*wanted))
    second = browser.find_elements("css selector", ".box")[1]
    buttons = browser.find_elements("css selector", ".box button")
    note, seen = page.find("#note"), page.find("#seen")

    def chosen():
        return [each.get_attribute("aria-pressed") for each in buttons]

    assert chosen() == ["true", "false"]
    assert np.argmax(page.probabilities()) == wanted[0]
    assert note.text == "Unsure of 1 of 2, marked with “?”."
    before = seen.get_attribute("src")
    second.click()
    assert chosen() == ["false", "true"]
    assert np.argmax(page.probabilities()) == wanted[1]
    assert seen.get_attribute("src") != before
    reason = "it is not written as digits are"
    assert note.text == f"Unsure, perhaps {wanted[1]}: {reason}."
    assert re.fullmatch(
        rf"2 of 2: unsure, perhaps {wanted[1]}, [\d.]+ %", buttons[1].get_attribute("aria-label")
    )
    browser.execute_script("document.activeElement.blur(); arguments[0].focus()", page.paper)
    browser.switch_to.active_element.send_keys("\ue004")  # Tab.
    assert browser.switch_to.active_element == buttons[0]
    assert chosen() == ["true", "false"]
    page.find("#clear").click()
    assert boxes(page) == []
    page.find("#undo").click()
    page.wait(lambda: page.digit() == "{}{}".format(*wanted))
    assert boxes(page)[0][1] > 1
    Image.new("L", (90, 90), 255).save(tmp_path / "blank.png")
    page.find("#file").send_keys(str(tmp_path / "blank.png"))
    page.wait(lambda: note.text == "the picture shows no digit: it is blank.")
    assert (page.digit(), boxes(page), page.probabilities()) == ("", [], [0] * 10)


def test_one_draws_in_the_boxes_of_what_was_drawn(browser, address):
    """And a digit's label is clicked to look at it."""
    page = Page(browser, address)
    page.draw([(-0.5, -0.5), (-0.5, 0.5)])
    page.draw([(0.5, -0.5), (0.5, 0.5)])
    page.wait(lambda: len(page.digit()) == 2)
    page.wait(lambda: not browser.execute_script("return busy"))
    before = page.pixels()
    page.draw([(-0.8, 0.0), (-0.2, 0.0)])
    assert page.pixels() != before
    page.wait(lambda: not browser.execute_script("return busy"))
    browser.find_elements("css selector", ".box button")[1].click()
    pressed = [
        each.get_attribute("aria-pressed")
        for each in browser.find_elements("css selector", ".box button")
    ]
    assert pressed == ["false", "true"]


@pytest.mark.parametrize("kind", ["gif", "heic"])
def test_the_frame_that_was_read_is_seen_in_every_format(
    browser, address, model, test_split, tmp_path, kind
):
    """Browsers show the first frame of a GIF, and no HEIC: so the server sends the picture."""
    digit, path = side_by_side(test_split.images[0]), tmp_path / f"it.{kind}"
    wanted, note = str(model.predict(digit).classes), ""
    if kind == "gif":
        Image.new("L", digit.size, 255).save(path, save_all=True, append_images=[digit])
        note = "The picture has 2 frames: this is frame 2, the first that is not blank."
    else:
        heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
        with open(path, "wb") as f:
            heif.from_pillow(digit.convert("RGB")).save(f)
    page = Page(browser, address)
    page.find("#file").send_keys(str(path))
    page.wait(lambda: page.digit() == wanted)
    script = "return pen.getImageData(0, 0, 280, 280).data.some((x, i) => i % 4 < 3 && x < 99)"
    page.wait(lambda: browser.execute_script(script))
    page.wait(lambda: not browser.execute_script("return busy"))
    assert page.find("#note").text == note
