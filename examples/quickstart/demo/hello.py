"""Greets."""

from answering import serve


def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object]:
    name = path.removeprefix("/hello").strip("/") or "world"
    return 200, {"greeting": f"Hello, {name}!"}


if __name__ == "__main__":
    serve(answer)
