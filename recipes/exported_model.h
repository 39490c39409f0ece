// What an exported model tells of itself, so that whoever opens the file needs nothing else: class names,
// tokens, what each tensor is, and how integers stand for numbers. It is found by names, without the model's
// code.
#pragma once

#include "parallel/checkpoint/export.h"

namespace conclave {

ExportNotes export_notes(const CheckpointReader& checkpoint);

}  // namespace conclave
