// Builds a graph of ONNX's standard operators node by node and writes it as a file for ONNX Runtime. Opset
// 17, the first with LayerNormalization. https://onnx.ai/onnx/operators
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/tensor.h"
#include "recipes/onnx/protobuf.h"

namespace conclave::onnx {

/// Name of a tensor in the graph; "" stands for an omitted optional input of an operator.
using Value = std::string;
using Integers = std::vector<std::int64_t>;

/// Values of TensorProto.DataType.
enum class ElementType : std::int64_t { f32 = 1, u8 = 2, i8 = 3, i32 = 6, i64 = 7, boolean = 9 };

struct Attribute {
  std::string name;
  std::variant<std::int64_t, float, Integers> value;
};

/// A fixed length, or the name of a length that is chosen at run time.
using Dimension = std::variant<std::int64_t, std::string>;

class Graph {
 public:
  Value input(const std::string& name, ElementType type, const std::vector<Dimension>& shape);
  /// Makes `value` an output called `name`.
  void output(const Value& value, const std::string& name, ElementType type,
              const std::vector<Dimension>& shape);

  /// Adds a node with one output: graph("MatMul", {a, b}).
  Value operator()(const char* op, const std::vector<Value>& inputs,
                   const std::vector<Attribute>& attributes = {});
  /// Adds a node with several outputs.
  std::vector<Value> several(std::size_t outputs, const char* op, const std::vector<Value>& inputs,
                             const std::vector<Attribute>& attributes = {});

  /// Stores a tensor in the file under this name, without the scope's prefix. A repeated call with the same
  /// name returns the stored tensor.
  Value tensor(const std::string& name, const Tensor& values);
  /// An i64 tensor [values.size()]; equal tensors are stored once.
  Value integers(const Integers& values);
  /// A tensor without dimensions.
  Value scalar(float value);
  Value scalar(std::int64_t value);
  Value scalar(std::uint8_t value);

  Value reshape(const Value& x, const Integers& shape) { return (*this)("Reshape", {x, integers(shape)}); }
  Value transpose(const Value& x, Integers order) {
    return (*this)("Transpose", {x}, {{"perm", std::move(order)}});
  }
  Value cast(const Value& x, ElementType to) {
    return (*this)("Cast", {x}, {{"to", static_cast<std::int64_t>(to)}});
  }

  /// While a Scope exists, names of nodes begin with the names of all open scopes: "layers.0.moe.".
  class Scope {
   public:
    Scope(Graph& graph, const std::string& name) : graph_(graph), length_(graph.prefix_.size()) {
      if (!name.empty()) graph.prefix_ += name + ".";
    }
    ~Scope() { graph_.prefix_.resize(length_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Graph& graph_;
    std::size_t length_;
  };

  /// The encoded file. Throws Error if it exceeds 2 GiB, the limit of a Protocol Buffers message.
  std::string file(const std::map<std::string, std::string>& metadata) const;

 private:
  Value initializer(const Value& name, ElementType type, std::span<const std::int64_t> shape,
                    std::string_view bytes);
  Value constant(ElementType type, std::span<const std::int64_t> shape, std::string_view bytes);

  std::string prefix_;
  std::map<std::string, std::int64_t> numbers_;  // how often each node name was used
  std::map<std::string, Value> constants_;       // key: type, shape and bytes
  std::set<Value> tensors_;
  Message nodes_;  // fields of GraphProto without inputs and outputs
  Message ends_;   // inputs and outputs of GraphProto
};

}  // namespace conclave::onnx
