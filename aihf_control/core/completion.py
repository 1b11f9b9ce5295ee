"""Completion of `aihf` in a shell: its commands, and their flags as their help lists them."""

from __future__ import annotations

from collections.abc import Sequence

SHELLS = ("bash", "zsh")

_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"
_BASH = """_aihf() {
  local word=${COMP_WORDS[COMP_CWORD]} known="COMMANDS"
  if [ "$COMP_CWORD" -gt 1 ]; then
    case $word in -*) ;; *) return ;; esac
    known=$(aihf "${COMP_WORDS[@]:1:COMP_CWORD-1}" --help-all 2>/dev/null | grep -oE -- '--[a-z][a-z0-9.-]*' | sort -u)
  fi
  COMPREPLY=($(compgen -W "$known" -- "$word"))
}
complete -o default -F _aihf aihf"""


def script(shell: str, commands: Sequence[str]) -> str:
    """Return what the shell has to read: `source <(aihf --completion bash)`."""
    return (_ZSH if shell == "zsh" else "") + _BASH.replace("COMMANDS", " ".join(commands))
