"""The command that opens a page to draw on, which shows the model's answer at every stroke.

It is built on Starlette and a page of our own, not on Gradio: the sketchpad of Gradio 6.31 reports
a stroke only once it has ended, so that nothing moves while one draws, and Gradio takes 340 MB.
"""

import asyncio
import base64
import contextlib
import html
import io
import json
import re
import socket
import sys
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmnist.cli import Parser, run
from jaxmnist.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from jaxmnist.trained.inference import Model
    from jaxmnist.trained.reading import Detection

MAX_BYTES = 10_000_000
MAX_PIXELS = 25_000_000  # A telephone has 24 million; they take 0.4 GB while they are prepared.
_SEEN = 84  # About the longer side of what the network sees, on the page, in its pixels.
_PAGE = Path(__file__).with_name("demo.html")
_HEADERS = {
    # The page may talk to this server only.
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def parser(verb: str | None = None) -> Parser:
    """The command's flags; `verb` is what it is called by."""
    parser = Parser(
        verb,
        "demo",
        description="Open a page to draw on, or to drop a picture on, and see the model's answer.",
    )
    parser.add_workdir()
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; default: %(default)s"
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="default: %(default)s; 0: any free one"
    )
    parser.add_argument("--no_browser", action="store_true", help="do not open the page")
    return parser


def main(argv: list[str] | None = None, verb: str | None = None) -> int:
    """Runs the command until Ctrl-C; returns the exit status."""
    args = parser(verb).parse_args(argv)
    return run(lambda: _demo(args.workdir, args.host, args.port, not args.no_browser))


def _demo(workdir: str, host: str, port: int, browser: bool) -> None:
    try:
        import uvicorn
    except ImportError:
        raise UserError("the demo needs uvicorn: pip install 'jaxmnist[demo]'.") from None
    # Imported here, so that a mistyped flag is told of at once.
    import webbrowser

    from jaxmnist.devices import tuning
    from jaxmnist.trained import inference

    listening = _listen(host, port)
    tuning.cache_compilations()
    model = inference.load(workdir)
    app = create_app(model, host, _about(workdir, model))
    _warm_up(model)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    todo = "show it" if model.preparation["method"] == "resize" else "draw"
    print(f"{todo} a {model.preparation['shows']} on {url} (Ctrl-C stops)", flush=True)
    if browser:
        webbrowser.open(url)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
    server.run([listening])


def _about(workdir: str, model: "Model") -> str:
    """Which model it is, in words."""
    from jaxmnist.data.datasets import eval_name
    from jaxmnist.files import local_path
    from jaxmnist.record.workdir import Workdir

    about = f"{workdir}: {model.config.dataset}, step {model.step:,}"
    results = Workdir(local_path(workdir, "workdir")).load_results()
    split = eval_name(model.config)
    found = model.metrics.get(split)  # Of a best checkpoint, results.json has only that.
    if results and results["step"] == model.step:
        found = results.get(split)
    if found and results:
        about += f", {split} accuracy {100 * found['accuracy']:.2f} %"
    return about


def _warm_up(model: "Model") -> None:
    """Has the model answer a stroke, so that the first one drawn waits for no compilation."""
    import numpy as np

    from jaxmnist.data import png

    paper = np.full((280, 280, 1), 255, np.uint8)
    paper[60:220, 130:150] = 0
    answer(model, png.encode(paper))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as cleanup:
            listening = cleanup.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
            cleanup.pop_all()
    except (OSError, OverflowError) as e:
        raise UserError(
            f"cannot listen on {host}, port {port} ({getattr(e, 'strerror', None) or e}): choose "
            "another with --host and --port."
        ) from None
    return listening


def create_app(
    model: "Model", host: str = "127.0.0.1", about: str = "", timeout: float = 20
) -> Any:
    """The application: the page at /, and /predict, which takes a picture's bytes by POST.

    /predict?picture also sends the picture back, for browsers that cannot show its format.

    Args:
      model: the model that answers.
      host: the address that the server listens on.
      about: which model it is, in words.
      timeout: the seconds that a picture has to arrive.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    text = _page(model, about)
    one_at_a_time = asyncio.Lock()

    async def page(request: Request) -> Response:
        return HTMLResponse(text, headers=_HEADERS)

    async def read(request: Request) -> bytes | None:
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > MAX_BYTES:
                return None
        return bytes(data)

    async def predict(request: Request) -> Response:
        close = _HEADERS | {"Connection": "close"}
        try:
            data = await asyncio.wait_for(read(request), timeout)
        except TimeoutError:
            error = f"the picture did not arrive within {timeout:g} s."
            return JSONResponse({"error": error}, 408, close)
        if data is None:
            error = f"the picture has more than {MAX_BYTES // 1_000_000} MB."
            return JSONResponse({"error": error}, 413, close)
        try:
            async with one_at_a_time:
                with_picture = "picture" in request.query_params
                found = await run_in_threadpool(answer, model, data, with_picture=with_picture)
        except UserError as e:
            return JSONResponse({"error": str(e)}, 422, _HEADERS)
        return JSONResponse(found, headers=_HEADERS)

    class Guard:
        """Refuses requests that are not from this server's own page, or not to its name."""

        def __init__(self, app: Any):
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            refused = _refusal(Request(scope), host) if scope["type"] == "http" else None
            app = PlainTextResponse(refused[1], refused[0], _HEADERS) if refused else self._app
            await app(scope, receive, send)

    return Starlette(
        routes=[Route("/", page), Route("/predict", predict, methods=["POST"])],
        middleware=[Middleware(Guard)],
    )


def _refusal(request: Any, host: str) -> tuple[int, str] | None:
    """The status and the sentence for a request that is refused; None if it is answered."""
    # DNS rebinding: a page elsewhere whose name points here now sends that name.
    asked = request.headers.get("host", "")
    names = {"127.0.0.1", "localhost", "::1", host.strip("[]").lower()}
    if host not in ("0.0.0.0", "::") and _hostname(asked) not in names:
        return 400, (
            f"Invalid host header: this demo was started with --host={host} and was asked for "
            f"{asked!r}. Behind a proxy, let that send 'Host: localhost', or start the demo with "
            "--host=0.0.0.0, which answers to every name and on every network.\n"
        )
    # Browsers say which page asks: by the first header on a secure connection, the second always.
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_ours = origin is None or origin.partition("://")[2] == asked
    if site is not None:
        is_ours = site == "same-origin"
    if request.method == "POST" and not is_ours:
        return 403, (
            f"This demo answers its own page alone, not one from {origin or 'elsewhere'}. Behind a "
            "proxy, let that pass on the header 'Host'.\n"
        )
    return None


def _hostname(netloc: str) -> str | None:
    try:
        return urllib.parse.urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _page(model: "Model", about: str = "") -> str:
    """The page, with the words of the data set that the model was trained on."""
    from PIL import Image

    from jaxmnist.trained import mistakes

    shows, names = model.preparation["shows"], model.class_names
    which = f"{shows}, {names[0]} to {names[-1]}," if shows == "digit" else shows
    title, hint, placeholder = {
        "strokes": (
            f"Draw a {shows}",
            "With the mouse or a finger; or drop a picture of one or several on the page.",
            f"draw a {which} here",
        ),
        "photo": (
            f"Show a {shows}",
            "Drop a photo of one anywhere on the page, best on plain white; or draw it.",
            "drop a photo here, or draw",
        ),
        "resize": (
            f"Show a {shows}",
            "Drop one anywhere on the page; or draw it, in black on white.",
            "drop a picture here, or draw",
        ),
    }[model.preparation["method"]]
    # Strokes and photos are put on black; what is only resized has the paper's white.
    blank = Image.new("L", (1, 1), 255 * (model.preparation["method"] == "resize"))
    height, width, _ = model.image_shape
    shown_width, shown_height = mistakes.shown_size(model.image_shape, _SEEN)
    texts = {
        "TITLE": title,
        "HINT": hint,
        "PLACEHOLDER": placeholder,
        "MAX_BYTES": str(MAX_BYTES),
        "SEEN_SIZE": f"{height}x{width}",
        "SEEN_STYLE": f"width: {shown_width}px; height: {shown_height}px",
        "BLANK_PIXEL": _base64(blank),
        # Nothing in a script may look like its end.
        "LABELS": json.dumps(names).replace("<", "\\u003c"),
        "ABOUT": html.escape(about),
    }
    # In one pass: a text may contain the names of others.
    page = _PAGE.read_text(encoding="utf-8")
    return re.sub("|".join(texts), lambda match: texts[match[0]], page)


def answer(model: "Model", data: bytes, *, with_picture: bool = False) -> dict[str, Any]:
    """What the page shows about a picture.

    Args:
      model: the model.
      data: the file, in one of `predict`'s formats.
      with_picture: whether the answer has "picture".

    Returns:
      "labels": the names of the classes.
      "classes": the most probable class.
      "probabilities": those of all classes.
      "image": the pixels that the network sees, upright: a PNG file as base64.
      "doubt": why the answer is unsure; only if it is.
      "detections": of a picture that shows several objects, the last four of each, in reading
        order, with its "box": left, top, right and bottom, as fractions of the upright picture.
        Above stands what is said of the first.
      "text": of these, all classes, such as "42".
      "note": which of several frames is meant; only then.
      "picture": the picture, upright and reduced: a JPEG file as base64; always with a note, since
        browsers show the first frame.

    Raises:
      UserError: it is no picture, it is damaged or too large, or nothing is on it.
    """
    from jaxmnist.data import pictures
    from jaxmnist.trained import inference, reading

    page = pictures.find(io.BytesIO(data), "the picture", model.preparation, max_pixels=MAX_PIXELS)
    (found,) = reading.detect(model, [page])
    if not found:
        raise UserError(f"the picture shows no {model.preparation['shows']}.")
    each = [_detection(one, page.size) for one in found]
    said = {"labels": model.class_names, **each[0]}
    del said["box"]
    if len(found) > 1:
        said |= {"detections": each, "text": inference.text_of(found, model.class_names)}
    if page.note:
        said["note"] = page.note[0].upper() + page.note[1:]
    if with_picture or page.note:
        said["picture"] = _base64(page.picture.convert("RGB"), "JPEG")
    return said


def _detection(found: "Detection", size: tuple[int, int]) -> dict[str, Any]:
    from jaxmnist.data import pictures

    doubt = {"doubt": found.doubt} if found.doubt else {}
    return {
        "box": [at / side for at, side in zip(found.box, 2 * size, strict=True)],
        "classes": found.classes,
        "probabilities": found.probabilities.tolist(),
        "image": _base64(pictures.to_pillow(found.image)),
        **doubt,
    }


def _base64(image: "Image.Image", kind: str = "PNG") -> str:
    """A picture as a file, in base64."""
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
