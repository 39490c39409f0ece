"""What the guides name exists: commands of the program with their options, recipes, scripts, files, and tests."""

import functools
import os
import re
from pathlib import Path

from runs import PROGRAM, run

SOURCE = Path(os.environ["CONCLAVE_SOURCE"])
ROOMS = "autograd|core|data|e2e|fault|federated|parallel|recipes|scripts|tests"
WRITTEN = {"site.toml"}  # by conclave federate provision


def code(text):
    """Code in a guide: each line of a block, joined with its continuation lines, and each `span`, also of several lines."""
    for number, part in enumerate(re.split(r"^```\w*$", text, flags=re.MULTILINE)):
        if number % 2:
            part = re.sub(r"\\\n *", "", part)
            # What stands in a column of its own, after two spaces, or after # is said about the command. A line that
            # starts with spaces continues it.
            lines = [re.split(r"(?<=\S)  +|(?<=\s)#", line)[0] for line in part.splitlines()]
            yield from re.sub(r"\n +", " ", "\n".join(lines)).splitlines()
        else:
            for span in re.findall(r"`([^`]+)`", part):
                yield re.sub(r"\s+", " ", span.replace("\\|", "|"))


@functools.cache
def told(command):
    """Subcommands and options of a command, as its --help has them."""
    said = run([PROGRAM, *command, "--help"])
    _, _, list_of_commands = said.partition("\nSubcommands:\n")
    return re.findall(r"^  (\w+)", list_of_commands, re.MULTILINE), set(re.findall(r"(?<![\w-])--?[\w-]+", said))


def commands(words):
    """The commands that these words after `conclave` name, and the words after them: "federate site|status NAME" are two."""
    found = [()]
    while words and told(found[0])[0]:
        names = words[0].split("|")
        for name in names:
            assert name in told(found[0])[0], f"conclave {' '.join(found[0])} has no subcommand {name}"
        found, words = [(*found[0], name) for name in names], words[1:]
    return found, words


def check_program(line):
    if not (found := re.search(r"(?:^|(?<!-t)[ /])conclave (.*)", line)):  # not the container's name
        return 0
    named, words = commands(found[1].split())
    for option in re.findall(r"(?<![\w-])--?[a-z][\w-]*", " ".join(words)):
        assert any(option in told(command)[1] for command in named), f"conclave {named} has no option {option}"
    return 1


def check_tests(line, tests):
    found = re.findall(r"scripts/test .*-R (?!NAME)(\"[^\"]+\"|\S+)", line)
    for pattern in found:
        assert any(re.search(pattern.strip('"'), test) for test in tests), f"ctest has no test {pattern}"
    return len(found)


def check_files(line, tests):
    """Files and folders from the root, with wildcards or without what follows the dot; tests by their names; and recipes by
    their last name alone."""
    found = [path for path in re.findall(rf"(?<![\w/.-])(?:{ROOMS})/[\w./*-]*[\w*/]", line) if "NAME" not in path]
    for path in found:
        assert path in tests or any(SOURCE.glob(path.rstrip("/"))) or any(SOURCE.glob(f"{path}.*")), f"there is no {path}"
    recipes = set(re.findall(r"^(\w+\.toml)", line)) - WRITTEN
    for name in recipes:
        assert any(SOURCE.glob(f"recipes/**/{name}")), f"there is no recipe {name}"
    return len(found) + len(recipes)


def main():
    tests = re.findall(r"^ *Test +#\d+: (\S+)", run(["ctest", "--test-dir", os.environ["CONCLAVE_BUILD"], "-N"]), re.MULTILINE)
    checks = [check_program, lambda line: check_tests(line, tests), lambda line: check_files(line, tests)]
    wrong, checked = [], [0, 0, 0]
    guides = [*SOURCE.glob("*.md"), *SOURCE.glob("*/*.md")]
    for guide in guides:
        text = guide.read_text()
        for line in [*code(text), *re.findall(r"recipes/[\w/]+\.toml", text)]:  # recipes also in comments
            for which, check in enumerate(checks):
                try:
                    checked[which] += check(line)
                except AssertionError as error:
                    wrong.append(f"{guide.relative_to(SOURCE)}: {error}, in: {line}")
    assert not wrong, "\n".join(wrong)
    assert all(count > least for count, least in zip(checked, (60, 10, 60), strict=True)), checked
    print(f"{len(guides)} guides: {checked[0]} commands, {checked[1]} tests and {checked[2]} files exist")


if __name__ == "__main__":
    main()
