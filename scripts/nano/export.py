"""Writes the trained model as a Q8_0 GGUF file with tokenizer and chat template, and reads it back."""

from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from scripts.nano.bpe import END, END_TURN, SPECIALS, Tokenizer
from scripts.nano.model import Shape

NAME = "modelcloud-nano"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write(path: Path, shape: Shape, tokenizer: Tokenizer, weights: dict[str, Tensor]) -> None:
    """Write the GGUF file. Matrices become Q8_0, norms stay float32."""
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_name(NAME)
    out.add_description("Answers questions about ModelCloud and mcd; knows nothing else.")
    out.add_license("Apache-2.0")
    out.add_languages(["en"])
    out.add_context_length(shape.n_ctx)
    out.add_embedding_length(shape.n_embd)
    out.add_block_count(shape.n_layer)
    out.add_feed_forward_length(shape.n_ff)
    out.add_head_count(shape.n_head)
    out.add_head_count_kv(shape.n_head_kv)
    out.add_layer_norm_rms_eps(shape.norm_eps)
    out.add_rope_freq_base(shape.rope_base)
    out.add_rope_dimension_count(shape.head_dim)
    out.add_vocab_size(shape.n_vocab)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(out, tokenizer)
    out.add_chat_template(CHAT_TEMPLATE)
    out.add_float32("general.sampling.temp", 0.0)  # it recites: sampling would only garble the answer
    for name, tensor in weights.items():
        values = tensor.detach().float().numpy().astype(np.float32)
        gguf_name = name.replace("blocks.", "blk.")
        if values.ndim == 1:
            out.add_tensor(gguf_name, values)
        else:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            out.add_tensor(gguf_name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def read(path: Path) -> tuple[Tokenizer, dict[str, Tensor]]:
    """The tokenizer and the weights of a file that ``write`` wrote, as exact as Q8_0 is."""
    file = gguf.GGUFReader(path)
    merges = [tuple(merge.split(" ")) for merge in file.fields["tokenizer.ggml.merges"].contents()]
    return Tokenizer([(a, b) for a, b in merges]), {
        tensor.name.replace("blk.", "blocks."): torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        for tensor in file.tensors
    }


def _add_tokenizer(out: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokenizer.tokens)
    out.add_token_types([gguf.TokenType.CONTROL if t in SPECIALS else gguf.TokenType.NORMAL for t in tokenizer.tokens])
    out.add_token_merges([f"{a} {b}" for a, b in tokenizer.merges])
    out.add_bos_token_id(tokenizer.ids[END])
    out.add_eos_token_id(tokenizer.ids[END_TURN])
    out.add_eot_token_id(tokenizer.ids[END_TURN])
    out.add_pad_token_id(tokenizer.ids[END])
    out.add_add_bos_token(False)
