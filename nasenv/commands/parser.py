"""`Parser` is jsonargparse with errors of one line and the nearest names."""

from __future__ import annotations

import difflib
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, get_origin

import jsonargparse
import yaml

from nasenv.errors import printable
from nasenv.files import user_path

_LARGEST = 800_000  # bytes of a file of options; PyYAML reads a few hundred thousand characters a second
_SOURCE, _CONSTRAINTS = "data.source", "--constraints"


class Parser(jsonargparse.ArgumentParser):
    """Parses options with jsonargparse; refuses abbreviations and keys given twice; errors are one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False, "parser_mode": "unique_yaml"})
        self.function_options: dict[str, Callable[[str], Mapping[str, Any] | None]] = {}
        """For an option: import path of a function -> the class and arguments that are meant; None for another path."""

    def parse_args(self, *args: Any, **kwargs: Any) -> jsonargparse.Namespace:  # type: ignore[override]
        """Parse a command line; an exception at the import of a user's module becomes one line too."""
        line = self._with_functions(self._with_constraints(self._with_source(args[0] if args else sys.argv[1:])))
        if self.exit_on_error:
            self._refuse_name_given_twice(line)
        try:
            return super().parse_args(line, *args[1:], **kwargs)
        except Exception as error:
            if not self.exit_on_error:
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = "" if isinstance(error, SyntaxError) else f" ({last.filename}, line {last.lineno})"
            self.error(f"{type(error).__name__}: {error}{where}")

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> jsonargparse.Namespace:
        """Parse a file of options; refuse one that is too large for that."""
        size = user_path(str(cfg_path)).stat().st_size
        if size > _LARGEST:
            self.error(f"config file {cfg_path}: expected options, got {size:,} bytes")
        parsed: jsonargparse.Namespace = super().parse_path(cfg_path, *args, **kwargs)
        return parsed

    def _with_source(self, line: Sequence[str]) -> list[str]:
        """Return the command line with ``--data TEXT`` written as ``--data.source TEXT``."""
        if not self._has_source():
            return list(line)
        return [re.sub(r"^--data(?=$|=)", f"--{_SOURCE}", word) for word in line]

    def _with_constraints(self, line: Sequence[str]) -> list[str]:
        """Return the command line with one ``--constraints`` in place of several, of which jsonargparse takes the last.

        >>> Parser()._with_constraints(["--constraints", "[a<=1, b<=2]", "--seed", "0", "--constraints=c<=3"])
        ['--constraints=[a<=1, b<=2, c<=3]', '--seed', '0']
        """
        words: list[str] = []
        given: list[str] = []
        first = 0
        rest = iter(line)
        for word in rest:
            option, is_assigned, value = word.partition("=")
            if option != _CONSTRAINTS:
                words.append(word)
                continue
            first = first if given else len(words)
            given.append(value if is_assigned else next(rest, ""))
        if len(given) < 2 or line[-1] == _CONSTRAINTS:  # jsonargparse says that its value is missing
            return list(line)
        inner = (text.strip().removeprefix("[").removesuffix("]").strip() for text in given)
        words.insert(first, f"{_CONSTRAINTS}=[{', '.join(filter(None, inner))}]")
        return words

    def _with_functions(self, line: Sequence[str]) -> list[str]:
        """Return the command line with ``--space FUNCTION`` written as ``--space '{class_path: ..., ...}'``."""
        words = list(line)
        for i, word in enumerate(words):
            option, equals, path = word.partition("=")
            path = path if equals else words[i + 1] if i + 1 < len(words) else ""
            meant = self.function_options.get(option.removeprefix("--"), _no_function)(path)
            if meant is not None and option.startswith("--"):
                words[i : i + 1 if equals else i + 2] = [f"{option}={json.dumps(meant)}"]
        return words

    def _apply_actions(self, cfg: Any, *args: Any, **kwargs: Any) -> jsonargparse.Namespace:
        """Apply a configuration, in which ``data: TEXT`` means ``data: {source: TEXT}``; a function can be a space."""
        for option, meaning in self.function_options.items() if isinstance(cfg, dict) else ():
            given = cfg.get(option)
            if isinstance(given, str) and (meant := meaning(given)) is not None:
                cfg = {**cfg, option: meant}
        if isinstance(cfg, dict) and isinstance(cfg.get("data"), str) and self._has_source():
            cfg = {**cfg, "data": {"source": cfg["data"]}}
        applied: jsonargparse.Namespace = super()._apply_actions(cfg, *args, **kwargs)
        return applied

    def _has_source(self) -> bool:
        return f"--{_SOURCE}" in self._option_string_actions

    def _refuse_name_given_twice(self, line: Sequence[str]) -> None:
        """Exit if a command line gives one name of a mapping twice, as in `--agents.p PPO --agents.p A2C`."""
        kinds = {action.dest: getattr(action, "_typehint", None) for action in self._actions}
        mappings = tuple(f"--{dest}." for dest, kind in kinds.items() if dict in (kind, get_origin(kind)))
        given = [text.partition("=")[0] for text in line if mappings and text.startswith(mappings)]
        if twice := [option for i, option in enumerate(given) if option in given[:i]]:
            self.error(f"{twice[0]} is given twice; give each a name of its own")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message as one line and exit with code 2; the parser of a class's arguments raises instead."""
        line = self._line(message)
        if not self.exit_on_error:  # the parser of a class's arguments: the outer one adds the path of the option
            super().error(line, ex)
        print(f"{self.prog}: error: {printable(line)}", file=sys.stderr)
        self.exit(2)

    def _line(self, message: str) -> str:
        """Return jsonargparse's message as one line: the path of the option, then the error."""
        message = re.sub(r"^--(\S+)\.help: ", r'Parser key "\1": ', message)
        keys = re.findall(r'Parser key "(.+?)":', message)
        classes = re.findall(r"Problem with given class_path '(?:.*\.)?(\w+)':", message)
        text = re.sub(r"""Parser key ".+?":|Problem with given class_path '.+?':""", " ", message)
        text = re.sub(r"(://[^\s:@/]*):\S+@", r"\1:***@", " ".join(text.split()))  # the password of a URL
        for pattern, plain in _REWRITTEN.items():
            text = re.sub(pattern, plain, text)
        path = ".".join(keys) + (f" ({classes[-1]})" if classes else "")
        text = self._with_nearest(text, keys)
        return f"{path}: {text}" if path else text

    def _with_nearest(self, text: str, keys: Sequence[str]) -> str:
        """Return a message on an unknown name with the nearest known names; return other messages unchanged."""
        if found := re.search(r"(?:Group '(.+?)' does not accept o|O)ption '(\S+?)'", text):
            group = f"{found[1]}." if found[1] else ""
            return f"unknown option {_nearest(group + found[2], self._options(group))}"
        if found := re.match(r"unrecognized arguments: (?:.* )?--(?P<name>[^\s=]+)", text):
            return f"unknown option {_nearest(found['name'], self._options(), '--')}"
        if found := re.fullmatch(r"Expected a dot import path string: ?(.*)", text):
            return f"unknown name {_nearest(found[1], self._class_names(keys))}; or give an import path, module.Class"
        if found := re.fullmatch(r"module '(.+)' has no attribute '(.+)'", text):
            return f"{found[1]} has no {_nearest(found[2], _public(found[1]))}"
        return text

    def _options(self, group: str = "") -> list[str]:
        names = [option[2:] for option in self._option_string_actions if option.startswith(f"--{group}")]
        return [name for name in names if not name.endswith(("help", "+")) and not name.startswith("print_")]

    def _class_names(self, keys: Sequence[str]) -> list[str]:
        """Return the short names of the classes that the option of this key accepts."""
        for action in self._actions:
            if keys and action.dest == keys[0] and hasattr(action, "extra_help"):
                return [path.rpartition(".")[2] for path in action.extra_help().rpartition(": ")[2].split(", ")]
        return []


_REWRITTEN = {  # message of jsonargparse -> plainer message
    r"<class '(?:builtins\.)?([\w.]+)'>": r"\1",
    r"Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors: .* Given value: (.*)": (
        r"expected one of \1, got \2"
    ),
    r"Type \S+ expects a function or a callable class: (.*)\. Got value: Namespace.*": r"\1",
    r"Expected an? ([\w.]+)\. Got value: (.*)": r"expected \1, got \2",
    r"Not a valid subclass of (\w+)\. Got value: (.*?) Subclass types expect.*": r"expected a class of \1, got \2",
    r"Expected an import path .* a type\[(?:\w+\.)*(\w+)\]\. Got value: (.*)": r"expected a class of \1, got \2",
    r"expected dict, got (.*)": r"expected names with their values, got \1",
    r"Expected an? (?:typing\.)?Literal\[(.*)\]\. Got value: (.*)": r"expected one of \1, got \2",
    r"No module named '(.+)'": r"no module \1 in the current folder or among the installed packages",
    r"Problems parsing config": "config file",
    r"Unable to load config '(.+?)' - Unable to load config .*": r"expected options by name, {name: value}, got \1",
    r"Unexpected config: ?(.*)": r"config file: expected lines of `option: value`, got \1",
    r"\bNoneType\b": "null",
    r"expected one of (int|float), null, got": r"expected \1 or null, got",
    r"expected one of nasenv\.[\w.]+\.(\w+), null, got": r"expected a class of \1, got",
    r"expected one of dict\[str, list\[typing\.Any\]\], null, got": "expected names with lists, {name: [...]}, got",
    r"expected int\b": "expected an integer",
    r"expected float\b": "expected a number",
}


def _no_function(path: str) -> None:
    """Return None, for an option that no function can be."""


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return the name and the known names near it, or all known names if none is near."""
    names = {n.lower(): n for n in sorted(known)}
    near = [names[n] for n in difflib.get_close_matches(name.lower(), names, n=3)]
    listed = ", ".join(prefix + n for n in near or names.values())
    return f"{prefix}{name}; " + (f"{'nearest' if near else 'there are'}: {listed}" if listed else "there are none")


def _public(module: str) -> list[str]:
    return [name for name in vars(sys.modules[module]) if not name.startswith("_")]


def _load_unique_yaml(text: str) -> Any:
    """Return the value of a YAML text; a key given twice in a mapping is an error, where PyYAML takes the last."""
    try:
        _check_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        return jsonargparse.get_loader("yaml")(text)
    except yaml.MarkedYAMLError as error:  # its own text is six lines
        where = error.problem_mark or error.context_mark
        raise yaml.YAMLError(f"line {where.line + 1 if where else '?'}: {error.problem or error.context}") from error
    except RecursionError:
        raise yaml.YAMLError("nested too deeply, or an alias refers to a node that contains it") from None
    except ValueError as error:  # as of the date 2001-99-99
        raise yaml.YAMLError(str(error)) from error


def _check_keys(node: yaml.Node | None) -> None:
    """Raise MarkedYAMLError if a key is given twice."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    seen: set[str] = set()
    for key, _ in pairs:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key.value} is given twice", problem_mark=key.start_mark)
        seen.add(str(key.value))
    for child in [value for _, value in pairs] or (node.value if isinstance(node, yaml.SequenceNode) else []):
        _check_keys(child)


jsonargparse.set_loader("unique_yaml", _load_unique_yaml, exceptions=(yaml.YAMLError,))
