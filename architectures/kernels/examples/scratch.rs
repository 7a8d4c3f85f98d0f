use burn::tensor::{Device, Distribution, Tensor, module};
use netkin_kernels::*;
use std::time::Instant;
fn cpu() -> f64 {
    unsafe extern "C" { fn clock() -> i64; }
    unsafe { clock() as f64 / 1e6 }
}
fn time(name: &str, flops: f64, mut f: impl FnMut()) {
    for _ in 0..3 { f(); }
    let mut t = vec![];
    for _ in 0..15 { let s = Instant::now(); let c = cpu(); f(); let c = cpu() - c; t.push(if std::env::args().nth(1).as_deref() == Some("1") { c } else { s.elapsed().as_secs_f64() }); }
    t.sort_by(f64::total_cmp);
    println!("{name}: {:.3} ms  {:.0} GFLOP/s", t[7]*1e3, flops/t[7]/1e9);
}
fn main() {
    unsafe { 
        unsafe extern "C" { fn mallopt(a: i32, b: i32) -> i32; }
        mallopt(-4, 0); mallopt(-1, i32::MAX); mallopt(-2, 64<<20);
    }
    let threads: usize = std::env::args().nth(1).map_or(2, |a| a.parse().unwrap());
    rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global().unwrap();
    let d = Device::flex();
    for (m,k,n) in [(1576,384,1536),(1576,1536,384)] {
        let x = Tensor::<2>::random([m,k], Distribution::Default, &d);
        let w = Tensor::<2>::random([n,k], Distribution::Default, &d);
        let b = Tensor::<1>::random([n], Distribution::Default, &d);
        let fl = 2.0*(m*k*n) as f64;
        for act in [Activation::Identity, Activation::Gelu] {
        let l = Linear{bias:true,activation:act,scale:false,residual:false,trainable:false,cache:Cache::default()};
        time(&format!("ours {m} {k} {n} {act:?}"), fl, || { let _y: Tensor<2> = run(l.clone(), vec![x.clone().into_dispatch(), w.clone().into_dispatch(), b.clone().into_dispatch()]); });
        }
    }
    for (ci,co,k,h) in [(256,1024,1,14),(1024,256,1,14),(64,256,1,56),(256,64,1,56),(64,64,3,56),(256,256,3,14),(512,512,3,7),(2048,512,1,7),(128,128,3,28)] {
        let x = Tensor::<4>::random([8,ci,h,h], Distribution::Default, &d);
        let w = Tensor::<4>::random([co,ci,k,k], Distribution::Default, &d);
        let fl = 2.0*(8*ci*co*k*k*h*h) as f64;
        let p = k/2;
        let l = Convolution{stride:[1;2],padding:[(p,p);2],dilation:[1;2],groups:1,bias:false,norm:None,scale:false,residual:false,activation:Activation::Relu,trainable:false,cache:Cache::default()};
        time(&format!("conv {ci} {co} {k} {h}"), fl, || { let _y: Tensor<4> = run(l.clone(), vec![x.clone().into_dispatch(), w.clone().into_dispatch()]); });
    }
}
