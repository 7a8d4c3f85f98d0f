//! The tensors of a network by timm's names: `blocks.0.attn.qkv.weight`.
//!
//! A name is the way to the tensor, field by field with a dot between them. The variant of an enum, which Burn names too, has no
//! part in it.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

/// A parameter or running statistic, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    /// timm's name.
    pub name: String,
    /// What gradients and optimisers know it by.
    pub id: ParamId,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// All parameters and running statistics, in the module's order. Nothing is drawn by this.
pub fn tensors(module: &impl Module) -> Vec<NamedTensor> {
    let mut list = List(Vec::new());
    visit(module, &mut list);
    list.0
}

/// Whether a name is that of a running statistic, which no optimiser changes.
pub fn is_statistic(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("running_mean" | "running_var"))
}

/// What is done with each tensor of a module: a [`ModuleVisitor`] that is told names.
pub trait Visitor {
    /// Sees a tensor, which may not be drawn yet.
    fn visit<const D: usize>(&mut self, name: &str, tensor: &Param<Tensor<D>>);
}

/// What each tensor of a module becomes: a [`ModuleMapper`] that is told names.
pub trait Mapper {
    /// Takes a tensor, which may not be drawn yet, and gives the one in its place.
    fn map<const D: usize>(&mut self, name: &str, tensor: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Shows all parameters and running statistics, in the module's order.
pub fn visit(module: &impl Module, visitor: &mut impl Visitor) {
    module.visit(&mut Walk { path: Vec::new(), inner: visitor });
}

/// Changes all parameters and running statistics, in the module's order.
pub fn map<M: Module>(module: M, mapper: &mut impl Mapper) -> M {
    module.map(&mut Walk { path: Vec::new(), inner: mapper })
}

struct List(Vec<NamedTensor>);

impl Visitor for List {
    fn visit<const D: usize>(&mut self, name: &str, tensor: &Param<Tensor<D>>) {
        let shape = tensor.lazy_shape().as_slice().to_vec();
        self.0.push(NamedTensor { name: name.to_owned(), id: tensor.id, shape });
    }
}

/// Where Burn's traversal is.
struct Walk<'a, T> {
    path: Vec<String>,
    inner: &'a mut T,
}

impl<T> Walk<'_, T> {
    fn enter(&mut self, name: &str, container: &str) {
        if !is_enum(container) {
            self.path.push(name.to_owned());
        }
    }

    fn exit(&mut self, container: &str) {
        if !is_enum(container) {
            self.path.pop();
        }
    }
}

/// As [`ModuleVisitor::enter_module`] describes containers.
fn is_enum(container: &str) -> bool {
    container.starts_with("Enum:")
}

impl<V: Visitor> ModuleVisitor for Walk<'_, V> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, tensor: &Param<Tensor<D>>) {
        self.inner.visit(&self.path.join("."), tensor);
    }
}

impl<M: Mapper> ModuleMapper for Walk<'_, M> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.exit(container);
    }

    fn map_float<const D: usize>(&mut self, tensor: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.inner.map(&self.path.join("."), tensor)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Initializer;
    use burn::tensor::Device;

    use super::*;
    use crate::layers::{BatchNorm2d, Conv2d, Linear};

    #[derive(Module, Debug)]
    struct Layers {
        maps: Vec<Map>,
        norm: Option<BatchNorm2d>,
    }

    #[derive(Module, Debug)]
    enum Map {
        Linear(Linear),
        Convolution(Conv2d),
    }

    fn layers() -> Layers {
        let device = Device::flex();
        let linear = Linear::new(2, 3, &device);
        let convolution = Conv2d::config(2, 3, 1).build(&device);
        let maps = vec![Map::Linear(linear), Map::Convolution(convolution)];
        Layers { maps, norm: Some(BatchNorm2d::new(3, &device)) }
    }

    #[test]
    fn variants_have_no_part_in_names_and_nothing_is_drawn() {
        let layers = layers();
        let tensors = tensors(&layers);
        let found: Vec<(&str, &[usize])> = tensors.iter().map(|it| (it.name.as_str(), it.shape.as_slice())).collect();
        let expected: [(&str, &[usize]); 7] = [
            ("maps.0.weight", &[3, 2]),
            ("maps.0.bias", &[3]),
            ("maps.1.weight", &[3, 2, 1, 1]),
            ("norm.weight", &[3]),
            ("norm.bias", &[3]),
            ("norm.running_mean", &[3]),
            ("norm.running_var", &[3]),
        ];
        assert_eq!(found, expected);
        let statistics = tensors.iter().filter(|it| is_statistic(&it.name)).count();
        assert_eq!(statistics, 2);
        let Map::Linear(linear) = &layers.maps[0] else { panic!("the first is linear") };
        assert_eq!(tensors[0].id, linear.weight.id);
        assert!(!linear.weight.is_initialized());
    }

    #[test]
    fn mapped_tensors_are_named_alike() {
        struct Ones(Vec<String>);
        impl Mapper for Ones {
            fn map<const D: usize>(&mut self, name: &str, tensor: Param<Tensor<D>>) -> Param<Tensor<D>> {
                self.0.push(name.to_owned());
                Initializer::Ones.init(tensor.lazy_shape(), &tensor.lazy_device())
            }
        }
        let mut ones = Ones(Vec::new());
        let layers = map(layers(), &mut ones);
        let names: Vec<String> = tensors(&layers).into_iter().map(|tensor| tensor.name).collect();
        assert_eq!(ones.0, names);
        let Map::Convolution(convolution) = &layers.maps[1] else { panic!("the second is a convolution") };
        assert_eq!(convolution.weight.val().sum().into_scalar::<f32>(), 6.0);
    }
}
