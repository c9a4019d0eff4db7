"""The command that opens a page on which a person draws a digit and sees what the model says.

Starlette and one page of our own rather than Gradio: Gradio 6.31's sketchpad tells of a stroke
only once it has ended, so that nothing moves while one draws, and takes 340 MB.
"""

import argparse
import asyncio
import base64
import io
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmnist.errors import UserError
from jaxmnist.main import run

if TYPE_CHECKING:
    from jaxmnist.inference import Model

MAX_BYTES = 10_000_000  # Of a picture.
# Pillow has others that start programs, or that no browser shows.
_FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]
_PAGE = Path(__file__).with_name("demo.html")
_HEADERS = {
    # The page may talk to this server and to nobody else.
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command until Ctrl-C; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxmnist.demo",
        description="Opens a page on which a digit is drawn, and says which it is.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="the folder of a training run")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; default: %(default)s"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s; 0: any")
    parser.add_argument("--no_browser", action="store_true", help="do not open the page")
    args = parser.parse_args(argv)
    return run(lambda: _demo(args.workdir, args.host, args.port, not args.no_browser))


def _demo(workdir: str, host: str, port: int, browser: bool) -> None:
    try:
        import uvicorn
    except ImportError:
        raise UserError("the demo needs uvicorn: pip install 'jaxmnist[demo]'.") from None
    # Imported here, so that a mistyped flag is told of at once.
    import webbrowser

    from jaxmnist import device, inference

    listening = _listen(host, port)
    device.cache_compilations()
    app = create_app(inference.load(workdir), host)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    print(f"draw a digit on {url} (Ctrl-C stops)", flush=True)
    if browser:
        webbrowser.open(url)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
    server.run([listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except (OSError, OverflowError) as e:
        raise UserError(
            f"cannot listen on {host}, port {port} ({getattr(e, 'strerror', None) or e}): choose "
            "another with --host and --port."
        ) from None
    return listening


def create_app(model: "Model", host: str = "127.0.0.1") -> Any:
    """The application: the page at /, and /predict, which takes a picture's bytes by POST.

    Args:
      model: that is asked.
      host: the address that it listens on.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    html = _PAGE.read_text(encoding="utf-8").replace("MAX_BYTES", str(MAX_BYTES))
    one_at_a_time = asyncio.Lock()

    async def page(request: Request) -> Response:
        return HTMLResponse(html, headers=_HEADERS)

    async def predict(request: Request) -> Response:
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > MAX_BYTES:
                error = f"the picture has more than {MAX_BYTES // 1_000_000} MB."
                return JSONResponse({"error": error}, 413, _HEADERS | {"Connection": "close"})
        try:
            async with one_at_a_time:
                found = await run_in_threadpool(answer, model, bytes(data))
        except UserError as e:
            return JSONResponse({"error": str(e)}, 422, _HEADERS)
        return JSONResponse(found, headers=_HEADERS)

    # A page elsewhere whose name was made to point here has another name in its requests.
    names = ["*"] if host in ("0.0.0.0", "::") else ["127.0.0.1", "localhost", "[::1]", host]
    return Starlette(
        routes=[Route("/", page), Route("/predict", predict, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)],
    )


def answer(model: "Model", data: bytes) -> dict[str, Any]:
    """What the page shows of a picture.

    Returns "labels", "classes" and "probabilities", and "image", the 28x28 PNG that the network
    sees, as base64.

    Raises:
      UserError: no picture, or nothing on it.
    """
    from jaxmnist import pictures, png

    digit = pictures.read(io.BytesIO(data), "the picture", _FORMATS)
    classes, probabilities = model.predict(digit)
    return {
        "labels": model.class_names,
        "classes": int(classes),
        "probabilities": probabilities.tolist(),
        "image": base64.b64encode(png.encode(digit[..., None])).decode(),
    }


if __name__ == "__main__":
    sys.exit(main())
