"""Writing the two files of an inference model."""

from __future__ import annotations

from paddleslim_ng.core import GraphWrapper, is_pir_program, paddle_compat, view_array
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import GraphError
from paddleslim_ng.runtime.model_files import ModelFiles
from paddleslim_ng.runtime.model_loading import InferenceModel
from paddleslim_ng.runtime.parameter_file import write_combined
from paddleslim_ng.runtime.pir_json import check_pir_json

__all__ = ['write_model']


def write_model(model: InferenceModel, files: ModelFiles) -> None:
    """Write an inference model in the format of its program's IR.

    Args:
        model: program in test mode, its inputs and outputs, and the scope with its parameters.
        files: the new files; they must not exist.

    Raises:
        OSError: the folder is not writable, or the device is full.
        DataError: the program file was not written whole.
        GraphError: Paddle refuses to cut the program to its inputs and outputs.
    """
    graph = GraphWrapper(model.program)
    feeds = [graph.var(name).raw for name in model.feeds]
    fetches = [graph.var(item).raw for item in model.fetches]
    with matching_ir(model.program):
        try:
            if is_pir_program(model.program):
                state = paddle_compat.write_pir(model.program, feeds, fetches, str(files.program))
            else:
                content, state = paddle_compat.legacy_content(model.program, feeds, fetches)
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise GraphError(f'Paddle cannot make an inference model of this program: {reason.strip()}') from error
    if is_pir_program(model.program):
        check_pir_json(files.program)
    else:
        files.program.write_bytes(content)
    write_combined(files.parameters, {name: view_array(model.scope, name) for name in state})
