"""A trio program: several questions at once, each with its own deadline, and one place where errors are met.

python trio_program.py http://127.0.0.1:8000
"""

import sys

import trio

import devpipe


async def ask(pipe: devpipe.Pipe, number: int) -> None:
    try:
        reply = await pipe.send("echo", {"number": number}, timeout=5)
    except devpipe.DevPipeError as error:
        # what is known of the message says whether it may be sent again
        print(f"{number}: {error} ({error.outcome}, safe to resend: {error.safe_to_resend})")
    else:
        print(f"{number}: {reply.payload} over {reply.transport}")


async def main(server: str) -> None:
    async with devpipe.connect(server) as pipe, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, pipe, number)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python trio_program.py SERVER")
    trio.run(main, sys.argv[1])
