//! A module behind a pointer.

use std::ops::Deref;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

/// A module behind a pointer, which lets a module hold another one of its own kind. It adds nothing to keys.
#[derive(Debug, Clone)]
pub struct Boxed<M>(Box<M>);

impl<M> Boxed<M> {
    /// Moves a module behind a pointer.
    pub fn new(module: M) -> Self {
        Self(Box::new(module))
    }
}

impl<M> Deref for Boxed<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M: Module> Module for Boxed<M> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.0.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self::new(self.0.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        Self::new(self.0.to_device(device))
    }

    fn train(self) -> Self {
        Self::new(self.0.train())
    }

    fn valid(&self) -> Self {
        Self::new(self.0.valid())
    }

    fn materialize(self) -> Self {
        Self::new(self.0.materialize())
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit(visitor);
    }

    fn map<V: ModuleMapper>(self, mapper: &mut V) -> Self {
        Self::new(self.0.map(mapper))
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for Boxed<M> {
    fn content(&self, content: Content) -> Option<Content> {
        self.0.content(content)
    }
}

impl<M: ModuleDisplay> ModuleDisplay for Boxed<M> {}
