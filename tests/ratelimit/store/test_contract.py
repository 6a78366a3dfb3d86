"""What every store does, whichever it is: memory, one Redis, a cluster of Redis servers."""

from __future__ import annotations

import uuid

import pytest

from ratelimit.core.budget import Budget, Code, Kind, Take
from tests.ratelimit.clock import SECOND_US, Clock
from tests.ratelimit.store.conftest import Store, ask

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000


def bucket(requests: int, window_us: int = MINUTE_US, burst: int | None = None, **more: object) -> Budget:
    return Budget(kind=Kind.TOKEN_BUCKET, requests=requests, window_us=window_us, burst=burst or requests, **more)  # type: ignore[arg-type]


def fixed(requests: int, window_us: int = MINUTE_US, **more: object) -> Budget:
    return Budget(kind=Kind.FIXED_WINDOW, requests=requests, window_us=window_us, burst=requests, **more)  # type: ignore[arg-type]


def sliding(requests: int, window_us: int = MINUTE_US, **more: object) -> Budget:
    return Budget(kind=Kind.SLIDING_WINDOW, requests=requests, window_us=window_us, burst=requests, **more)  # type: ignore[arg-type]


@pytest.fixture
def key() -> bytes:
    """A counter nobody else uses."""
    return uuid.uuid4().bytes


async def codes(store: Store, *takes: Take) -> list[Code]:
    return [answer.code for answer in await ask(store, *takes)]


@pytest.mark.parametrize("budget", [bucket(3), fixed(3), sliding(3)], ids=lambda budget: budget.kind.name.lower())
async def test_as_many_as_allowed_and_no_more(store: Store, key: bytes, budget: Budget) -> None:
    answers = [(await ask(store, Take(key, budget)))[0] for _ in range(4)]

    assert [(a.code, a.remaining) for a in answers] == [(Code.OK, 2), (Code.OK, 1), (Code.OK, 0), (Code.OVER, 0)]


async def test_takes_of_one_counter_in_one_request_are_decided_one_after_the_other(store: Store, key: bytes) -> None:
    assert await codes(store, *[Take(key, bucket(2))] * 3) == [Code.OK, Code.OK, Code.OVER]


async def test_a_bucket_refills_steadily(store: Store, key: bytes, clock: Clock) -> None:
    budget = bucket(6, burst=2)  # one every ten seconds
    await codes(store, Take(key, budget), Take(key, budget))

    (refused,) = await ask(store, Take(key, budget))
    assert (refused.code, refused.wait_us) == (Code.OVER, 10 * SECOND_US)
    clock.forward(9.999999)
    assert await codes(store, Take(key, budget)) == [Code.OVER]
    clock.forward(0.000001)
    assert await codes(store, Take(key, budget), Take(key, budget)) == [Code.OK, Code.OVER]


async def test_a_fixed_window_starts_anew_at_its_boundary(store: Store, key: bytes, clock: Clock) -> None:
    clock.forward(59)
    assert await codes(store, *[Take(key, fixed(1))] * 2) == [Code.OK, Code.OVER]
    clock.forward(1)
    assert await codes(store, Take(key, fixed(1))) == [Code.OK]


async def test_a_sliding_window_remembers_the_one_before(store: Store, key: bytes, clock: Clock) -> None:
    budget = sliding(10)
    clock.forward(30)
    await codes(store, *[Take(key, budget)] * 10)
    clock.forward(45)  # a quarter into the next window: three quarters of the ten still count

    assert await codes(store, *[Take(key, budget)] * 3) == [Code.OK, Code.OK, Code.OVER]


async def test_hits_are_taken_whole_or_not_at_all(store: Store, key: bytes) -> None:
    assert await codes(store, Take(key, bucket(5), 4), Take(key, bucket(5), 2), Take(key, bucket(5), 1)) == [
        Code.OK,
        Code.OVER,
        Code.OK,
    ]


async def test_looking_takes_nothing(store: Store, key: bytes) -> None:
    await codes(store, *[Take(key, bucket(2), 0)] * 5)

    (answer,) = await ask(store, Take(key, bucket(2)))
    assert (answer.code, answer.remaining) == (Code.OK, 1)


async def test_looking_at_an_empty_bucket_says_so(store: Store, key: bytes) -> None:
    await codes(store, Take(key, bucket(1)))

    assert await codes(store, Take(key, bucket(1), 0)) == [Code.OVER]


async def test_what_is_given_back_can_be_taken_again(store: Store, key: bytes) -> None:
    budget = bucket(2)
    await codes(store, Take(key, budget, 2))

    (back,) = await ask(store, Take(key, budget, -1))
    assert (back.code, back.remaining) == (Code.OK, 1)
    assert await codes(store, Take(key, budget), Take(key, budget)) == [Code.OK, Code.OVER]


async def test_giving_back_more_than_was_taken_gives_no_more_than_all(store: Store, key: bytes) -> None:
    await codes(store, Take(key, bucket(2), -50))

    assert await codes(store, *[Take(key, bucket(2))] * 3) == [Code.OK, Code.OK, Code.OVER]


async def test_a_cost_known_afterwards_is_taken_even_if_it_is_too_much(store: Store, key: bytes, clock: Clock) -> None:
    budget = bucket(60, burst=10)  # one a second
    await ask(store, Take(key, budget, 25, is_forced=True))

    (answer,) = await ask(store, Take(key, budget))
    assert (answer.code, answer.wait_us) == (Code.OVER, 16 * SECOND_US)
    clock.forward(16)
    assert await codes(store, Take(key, budget)) == [Code.OK]


async def test_the_reference_service_counts_what_it_refuses(store: Store, key: bytes) -> None:
    budget = fixed(5, is_greedy=True, rescales=False)

    assert await codes(store, Take(key, budget, 4), Take(key, budget, 2), Take(key, budget, 1)) == [
        Code.OK,
        Code.OVER,
        Code.OVER,
    ]


async def test_nothing_is_let_through_by_a_limit_of_zero(store: Store, key: bytes) -> None:
    assert await codes(store, Take(key, fixed(0, is_greedy=True))) == [Code.OVER]


class TestChangedLimit:
    @pytest.mark.parametrize("make", [bucket, fixed, sliding], ids=["bucket", "fixed", "sliding"])
    async def test_the_consumed_share_stays(self, store: Store, key: bytes, make: object) -> None:
        await codes(store, *[Take(key, make(10))] * 5)  # type: ignore[operator]

        (answer,) = await ask(store, Take(key, make(100), 0))  # type: ignore[operator]
        assert answer.remaining == 50

    async def test_a_spent_bucket_stays_spent_when_its_window_changes(self, store: Store, key: bytes) -> None:
        await codes(store, *[Take(key, bucket(5))] * 5)

        assert await codes(store, Take(key, bucket(5000, DAY_US))) == [Code.OVER]

    async def test_a_window_of_the_reference_service_keeps_its_count(self, store: Store, key: bytes) -> None:
        await codes(store, *[Take(key, fixed(10, is_greedy=True, rescales=False))] * 5)

        (answer,) = await ask(store, Take(key, fixed(100, is_greedy=True, rescales=False)))
        assert answer.remaining == 94


class TestBlock:
    budget = bucket(2, blocks_us=(5 * MINUTE_US, 15 * MINUTE_US), forget_us=DAY_US)

    async def spend(self, store: Store, key: bytes) -> None:
        await codes(store, *[Take(key, self.budget)] * 2)

    async def test_a_violation_blocks_for_the_declared_time(self, store: Store, key: bytes, clock: Clock) -> None:
        await self.spend(store, key)
        (violation,) = await ask(store, Take(key, self.budget))
        assert (violation.code, violation.wait_us) == (Code.NOW_BLOCKED, 5 * MINUTE_US)

        clock.forward(299)
        (blocked,) = await ask(store, Take(key, self.budget))
        assert (blocked.code, blocked.wait_us) == (Code.BLOCKED, SECOND_US)
        clock.forward(1)
        assert await codes(store, *[Take(key, self.budget)] * 2) == [Code.OK, Code.OK]

    async def test_requests_while_blocked_do_not_prolong_it(self, store: Store, key: bytes, clock: Clock) -> None:
        await self.spend(store, key)
        await ask(store, Take(key, self.budget))
        for _ in range(10):
            clock.forward(29)
            assert await codes(store, Take(key, self.budget)) == [Code.BLOCKED]
        clock.forward(10)

        assert await codes(store, Take(key, self.budget)) == [Code.OK]

    async def test_the_second_violation_costs_more_and_the_last_step_repeats(
        self, store: Store, key: bytes, clock: Clock
    ) -> None:
        waits = []
        for _ in range(3):
            await self.spend(store, key)
            (violation,) = await ask(store, Take(key, self.budget))
            waits.append(violation.wait_us // MINUTE_US)
            clock.forward(violation.wait_us / SECOND_US)

        assert waits == [5, 15, 15]

    async def test_an_old_violation_is_forgotten(self, store: Store, key: bytes, clock: Clock) -> None:
        await self.spend(store, key)
        await ask(store, Take(key, self.budget))
        clock.forward(300 + 86_401)
        await self.spend(store, key)

        (violation,) = await ask(store, Take(key, self.budget))
        assert violation.wait_us == 5 * MINUTE_US

    async def test_the_blocked_are_listed_until_they_are_not(self, store: Store, key: bytes, clock: Clock) -> None:
        await self.spend(store, key)
        await ask(store, Take(key, self.budget))

        assert (key, int(clock() + 5 * MINUTE_US)) in [(b.key, b.until_us) for b in await listed(store)]
        clock.forward(301)
        assert key not in [b.key for b in await listed(store)]

    async def test_clearing_a_block_lets_the_next_request_through(self, store: Store, key: bytes) -> None:
        await self.spend(store, key)
        await ask(store, Take(key, self.budget))

        assert await cleared(store, key)
        assert await codes(store, Take(key, self.budget)) == [Code.OK]
        assert key not in [b.key for b in await listed(store)]
        assert not await cleared(store, uuid.uuid4().bytes)

    async def test_a_limit_in_shadow_blocks_nobody(self, store: Store, key: bytes) -> None:
        shadow = bucket(1, blocks_us=(MINUTE_US,), forget_us=DAY_US, is_shadow=True)

        assert await codes(store, *[Take(key, shadow)] * 3) == [Code.OK, Code.OVER, Code.OVER]

    async def test_a_block_that_is_no_longer_declared_no_longer_holds(self, store: Store, key: bytes) -> None:
        await self.spend(store, key)
        await ask(store, Take(key, self.budget))

        assert await codes(store, Take(key, bucket(2))) == [Code.OK]


async def listed(store: Store) -> list[object]:
    found = store.blocked()
    return list(found if isinstance(found, list) else await found)


async def cleared(store: Store, key: bytes) -> bool:
    found = store.clear(key)
    return found if isinstance(found, bool) else await found
