// The notes in an exported model, which make the file complete for its readers: class names, tokens, the
// meaning of each tensor, and how integers stand for numbers. Tensors are recognised by their names, without
// the model's code.
#pragma once

#include "parallel/checkpoint/export.h"

namespace conclave {

ExportNotes export_notes(const CheckpointReader& checkpoint);

}  // namespace conclave
