//! Modules under names that are only known when the network is built.

use std::fmt::Debug;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

/// Modules of one kind in order, each under a name of its own, where timm names its blocks `conv2_1`, `denselayer3`: a
/// PyTorch Sequential of an ordered dictionary. Beside them there may be data that tell how they are connected.
#[derive(Debug, Clone)]
pub struct Named<M, T = ()>(Vec<(String, M)>, T);

impl<M> FromIterator<(String, M)> for Named<M> {
    fn from_iter<I: IntoIterator<Item = (String, M)>>(modules: I) -> Self {
        Self(modules.into_iter().collect(), ())
    }
}

impl<M, T> Named<M, T> {
    /// Names and modules, in order, with data beside them.
    pub fn with(modules: Vec<(String, M)>, data: T) -> Self {
        Self(modules, data)
    }

    /// What is beside the modules.
    pub fn data(&self) -> &T {
        &self.1
    }

    /// The names and modules, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &M)> {
        self.0.iter().map(|(name, module)| (name.as_str(), module))
    }

    fn each<N>(self, mut change: impl FnMut(&str, M) -> N) -> Named<N, T> {
        let changed = |(name, module): (String, M)| {
            let changed = change(&name, module);
            (name, changed)
        };
        Named(self.0.into_iter().map(changed).collect(), self.1)
    }
}

impl<M: Module, T: Clone + Debug + Send> Module for Named<M, T> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.0.iter().fold(devices, |devices, (_, module)| module.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|_, module| module.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|_, module| module.to_device(device))
    }

    fn train(self) -> Self {
        self.each(|_, module| module.train())
    }

    fn valid(&self) -> Self {
        self.clone().each(|_, module| module.valid())
    }

    fn materialize(self) -> Self {
        self.each(|_, module| module.materialize())
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (name, module) in self.iter() {
            visitor.enter_module(name, "Named");
            module.visit(visitor);
            visitor.exit_module(name, "Named");
        }
    }

    fn map<V: ModuleMapper>(self, mapper: &mut V) -> Self {
        self.each(|name, module| {
            mapper.enter_module(name, "Named");
            let mapped = module.map(mapper);
            mapper.exit_module(name, "Named");
            mapped
        })
    }
}

impl<M: ModuleDisplay, T: Clone + Debug + Send> ModuleDisplayDefault for Named<M, T> {
    fn content(&self, content: Content) -> Option<Content> {
        self.iter().fold(content, |content, (name, module)| content.add(name, module)).optional()
    }
}

impl<M: ModuleDisplay, T: Clone + Debug + Send> ModuleDisplay for Named<M, T> {}
