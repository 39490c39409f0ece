// A plug-in: an LSTM over the tokens of each text that reach the expert.
#include "parallel/moe/expert.h"

namespace {

using namespace conclave;

struct MedicalExpert : BaseExpert {
  using BaseExpert::BaseExpert;
  Parameter& in = weight("in.weight", 4 * options_.ffn, options_.hidden);
  Parameter& bias = add_expert_parameter("in.bias", {4 * options_.ffn}, Initializer::constant(0), false);
  Parameter& recurrent = weight("recurrent.weight", 4 * options_.ffn, options_.ffn);
  Parameter& out = weight("out.weight", options_.hidden, options_.ffn);

  bool wants_sequences() const override { return true; }

  Tensor forward(Tape& tape, const ExpertInput& input) override {
    const auto& [rows, offsets, sequences] = input;
    const Tensor projected = functions::grouped_linear(tape, rows, offsets, in.value, bias.value);
    const Tensor states = functions::lstm(tape, projected, offsets, sequences, recurrent.value);
    return functions::grouped_linear(tape, states, offsets, out.value, Tensor());
  }

 private:
  Parameter& weight(const char* name, Index to, Index from) {
    return add_expert_parameter(name, {to, from}, Initializer::fan_in(from));
  }
};

CONCLAVE_REGISTER_EXPERT("lstm_medical", MedicalExpert);

}  // namespace
