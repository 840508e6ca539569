"""A script that asks once and goes: which model should I use?

python script.py http://127.0.0.1:8000 code-generation
"""

import sys

import devpipe.blocking


def main(server: str, task: str) -> None:
    with devpipe.blocking.ModelSelector(server) as models:
        choice = models.select(task, quality="high", max_cost_usd=0.50)
        print(f"{choice.selected_model.id} ({choice.source}): {choice.reasoning}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python script.py SERVER TASK")
    main(sys.argv[1], sys.argv[2])
