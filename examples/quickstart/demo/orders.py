"""Keeps orders in memory, each its user's own. Who the user is, the gateway says: it has verified the token."""

import json

from answering import serve

orders: list[dict[str, object]] = [{"id": 1, "user": "alice", "item": "tea", "quantity": 2}]


def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object]:
    user = headers.get("x-user-id", "")
    mine = [order for order in orders if order["user"] == user]
    if method == "POST":
        try:
            wanted = json.loads(body)
            order = {"id": len(orders) + 1, "user": user, "item": wanted["item"], "quantity": wanted.get("quantity", 1)}
        except (ValueError, KeyError, TypeError, AttributeError):
            return 400, {"error": 'expected {"item": "tea", "quantity": 2}'}
        orders.append(order)
        return 201, order
    identifier = path.removeprefix("/orders").strip("/")
    if not identifier:
        return 200, {"user": user, "orders": mine}
    found = [order for order in mine if str(order["id"]) == identifier]
    return (200, found[0]) if found else (404, {"error": "no such order of yours"})


if __name__ == "__main__":
    serve(answer)
