"""The demo in a real browser: digits drawn by mouse, pictures dropped, and what it refuses."""

import http.client
import itertools
import json
import re
import shutil
import socket

import numpy as np
import pytest

from jaxmnist import demo, png

pytest.importorskip("starlette", reason="needs the extra demo")
pytest.importorskip("uvicorn", reason="needs the extra demo")


@pytest.fixture
def address(command, trained):
    """The host and port of a running demo."""
    run = command("demo", "--no_browser", workdir=trained, port=0)
    line = run.process.stdout.readline()
    found = re.search(r"http://(127\.0\.0\.1):(\d+)/", line)
    assert found, run.process.communicate()
    return found[1], int(found[2])


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


def test_a_port_in_use_is_told_of(address, command, trained):
    run = command("demo", "--no_browser", workdir=trained, port=address[1])
    assert run.wait() == 1
    assert re.fullmatch(r"error: cannot listen on 127\.0\.0\.1, port \d+ .*\.\n", run.err)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1000,800",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


class Page:
    """The demo's page, as a person uses it."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get("about:blank")
        for log in ("performance", "browser"):
            browser.get_log(log)  # What was before is not the page's.
        browser.get("http://{}:{}/".format(*address))
        self.paper = self.find("#paper")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def probabilities(self):
        cells = self.browser.find_elements("css selector", "#rows td:last-child")
        return [float(cell.text.removesuffix(" %")) for cell in cells]

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

    def digit(self):
        return self.find("#digit").text


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
    assert browser.get_log("browser") == []


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
