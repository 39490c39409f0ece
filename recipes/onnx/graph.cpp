// Field numbers are from onnx.proto (https://github.com/onnx/onnx/blob/v1.12.0/onnx/onnx.proto).
#include "recipes/onnx/graph.h"

#include <limits>

namespace conclave::onnx {
namespace {

constexpr std::int64_t kOpset = 17, kIrVersion = 8;  // the IR version that was released with opset 17
constexpr const char* kTooLarge =
    "{} bytes; an ONNX file is one Protocol Buffers message, which is limited to 2 GiB: export to "
    "*.safetensors or "
    "*.h5, or quantize the model";

ElementType type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ElementType::f32;
    case DType::u8:
      return ElementType::u8;
    case DType::i8:
      return ElementType::i8;
    case DType::i32:
      return ElementType::i32;
    case DType::i64:
      return ElementType::i64;
    default:
      fail("ONNX export: tensors of type {} cannot be exported", name_of(dtype));
  }
}

template <class T>
std::string_view bytes_of(const T* values, std::size_t count) {
  return {reinterpret_cast<const char*>(values), count * sizeof(T)};
}

Message attribute(const Attribute& attribute) {
  enum : std::int64_t { kFloat = 1, kInt = 2, kInts = 7 };
  Message proto;
  proto.bytes(1, attribute.name);
  if (const auto* real = std::get_if<float>(&attribute.value)) {
    proto.real(2, *real);
    proto.integer(20, kFloat);
  } else if (const auto* integer = std::get_if<std::int64_t>(&attribute.value)) {
    proto.integer(3, *integer);
    proto.integer(20, kInt);
  } else {
    for (const std::int64_t value : std::get<Integers>(attribute.value)) proto.integer(8, value);
    proto.integer(20, kInts);
  }
  return proto;
}

// Encodes a ValueInfoProto.
Message described(const std::string& name, ElementType type, const std::vector<Dimension>& shape) {
  Message dimensions, tensor, whole, proto;
  for (const Dimension& dimension : shape) {
    Message one;
    if (const auto* length = std::get_if<std::int64_t>(&dimension))
      one.integer(1, *length);
    else
      one.bytes(2, std::get<std::string>(dimension));
    dimensions.message(1, one);
  }
  tensor.integer(1, static_cast<std::int64_t>(type));
  tensor.message(2, dimensions);
  whole.message(1, tensor);
  proto.bytes(1, name);
  proto.message(2, whole);
  return proto;
}

}  // namespace

Value Graph::input(const std::string& name, ElementType type, const std::vector<Dimension>& shape) {
  ends_.message(11, described(name, type, shape));
  return name;
}

void Graph::output(const Value& value, const std::string& name, ElementType type,
                   const std::vector<Dimension>& shape) {
  Message node;
  node.bytes(1, value);
  node.bytes(2, name);
  node.bytes(3, name);
  node.bytes(4, "Identity");
  nodes_.message(1, node);
  ends_.message(12, described(name, type, shape));
}

std::vector<Value> Graph::several(std::size_t outputs, const char* op, const std::vector<Value>& inputs,
                                  const std::vector<Attribute>& attributes) {
  std::string name = prefix_ + op;
  if (const auto number = numbers_[name]++; number > 0) name += fmt::format("_{}", number);
  Message node;
  for (const Value& input : inputs) node.bytes(1, input);
  std::vector<Value> values;
  for (std::size_t i = 0; i < outputs; ++i) {
    values.push_back(outputs == 1 ? name : fmt::format("{}:{}", name, i));
    node.bytes(2, values.back());
  }
  node.bytes(3, name);
  node.bytes(4, op);
  for (const Attribute& each : attributes) node.message(5, attribute(each));
  nodes_.message(1, node);
  return values;
}

Value Graph::operator()(const char* op, const std::vector<Value>& inputs,
                        const std::vector<Attribute>& attributes) {
  return several(1, op, inputs, attributes).front();
}

Value Graph::initializer(const Value& name, ElementType type, std::span<const std::int64_t> shape,
                         std::string_view bytes) {
  Message proto;
  for (const std::int64_t extent : shape) proto.integer(1, extent);
  proto.integer(2, static_cast<std::int64_t>(type));
  proto.bytes(8, name);
  proto.bytes(9, bytes);
  nodes_.message(5, proto);
  require(nodes_.encoded().size() < std::numeric_limits<std::int32_t>::max(), kTooLarge,
          nodes_.encoded().size());
  return name;
}

Value Graph::constant(ElementType type, std::span<const std::int64_t> shape, std::string_view bytes) {
  std::string key = fmt::format("{} {} ", static_cast<std::int64_t>(type), fmt::join(shape, " "));
  key += bytes;
  auto& value = constants_[key];
  if (value.empty()) value = initializer(fmt::format("constant_{}", constants_.size()), type, shape, bytes);
  return value;
}

Value Graph::tensor(const std::string& name, const Tensor& values) {
  if (!tensors_.insert(name).second) return name;
  const auto extents = values.shape().extents();
  return initializer(name, type_of(values.dtype()), Integers(extents.begin(), extents.end()),
                     bytes_of(static_cast<const char*>(values.raw()), values.bytes()));
}

Value Graph::integers(const Integers& values) {
  const std::int64_t count = static_cast<std::int64_t>(values.size());
  return constant(ElementType::i64, {&count, 1}, bytes_of(values.data(), values.size()));
}

Value Graph::scalar(float value) { return constant(ElementType::f32, {}, bytes_of(&value, 1)); }

Value Graph::scalar(std::int64_t value) { return constant(ElementType::i64, {}, bytes_of(&value, 1)); }

Value Graph::scalar(std::uint8_t value) { return constant(ElementType::u8, {}, bytes_of(&value, 1)); }

std::string Graph::file(const std::map<std::string, std::string>& metadata) const {
  Message graph, opset, model;
  graph.bytes(2, "conclave");
  opset.integer(2, kOpset);
  model.integer(1, kIrVersion);
  model.bytes(2, "conclave");
  std::string graph_bytes = nodes_.encoded() + ends_.encoded() + graph.encoded();
  model.bytes(7, graph_bytes);
  model.message(8, opset);
  for (const auto& [key, value] : metadata) {
    Message entry;
    entry.bytes(1, key);
    entry.bytes(2, value);
    model.message(14, entry);
  }
  require(model.encoded().size() < std::numeric_limits<std::int32_t>::max(), kTooLarge,
          model.encoded().size());
  return model.encoded();
}

}  // namespace conclave::onnx
