define internal void @matmul.loop0(ptr noalias readonly %a.A, ptr noalias readonly %a.B, ptr noalias %a.C, i64 %a.M, i64 %a.K, i64 %begin, i64 %end) nounwind {
entry:
  %v2 = lshr i64 %a.M, 1
  %v9 = mul i64 %a.K, 8
  %v13 = mul i64 %a.K, 64
  %v14 = mul i64 %begin, %v13
  %p15 = getelementptr i8, ptr %a.B, i64 %v14
  %v25 = mul i64 %a.K, 4
  %p26 = getelementptr i8, ptr %a.A, i64 %v25
  %v36 = mul i64 %begin, 64
  %p37 = getelementptr i8, ptr %a.C, i64 %v36
  %g.v1 = icmp slt i64 %begin, %end
  br i1 %g.v1, label %v1, label %v1.end
v1:
  %i.v1 = phi i64 [ %begin, %entry ], [ %n.v1, %v3.end ]
  %p16 = phi ptr [ %p15, %entry ], [ %p16.n, %v3.end ]
  %p38 = phi ptr [ %p37, %entry ], [ %p38.n, %v3.end ]
  %g.v3 = icmp slt i64 0, %v2
  br i1 %g.v3, label %v3, label %v3.end
v3:
  %i.v3 = phi i64 [ 0, %v1 ], [ %n.v3, %v4.end ]
  %p10 = phi ptr [ %a.A, %v1 ], [ %p10.n, %v4.end ]
  %p27 = phi ptr [ %p26, %v1 ], [ %p27.n, %v4.end ]
  %p39 = phi ptr [ %p38, %v1 ], [ %p39.n, %v4.end ]
  br label %v4
v4:
  %i.v4 = phi i64 [ 0, %v3 ], [ %n.v4, %v4 ]
  %p11 = phi ptr [ %p10, %v3 ], [ %p11.n, %v4 ]
  %p17 = phi ptr [ %p16, %v3 ], [ %p17.n, %v4 ]
  %p28 = phi ptr [ %p27, %v3 ], [ %p28.n, %v4 ]
  %v5 = phi <8 x float> [ splat (float 0x0000000000000000), %v3 ], [ %v21, %v4 ]
  %v6 = phi <8 x float> [ splat (float 0x0000000000000000), %v3 ], [ %v24, %v4 ]
  %v7 = phi <8 x float> [ splat (float 0x0000000000000000), %v3 ], [ %v32, %v4 ]
  %v8 = phi <8 x float> [ splat (float 0x0000000000000000), %v3 ], [ %v33, %v4 ]
  %v12 = load float, ptr %p11, align 4
  %v18 = load <8 x float>, ptr %p17, align 4
  %v19 = insertelement <8 x float> poison, float %v12, i64 0
  %v20 = shufflevector <8 x float> %v19, <8 x float> poison, <8 x i32> zeroinitializer
  %v21 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v20, <8 x float> %v18, <8 x float> %v5)
  %p22 = getelementptr i8, ptr %p17, i64 32
  %v23 = load <8 x float>, ptr %p22, align 4
  %v24 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v20, <8 x float> %v23, <8 x float> %v6)
  %v29 = load float, ptr %p28, align 4
  %v30 = insertelement <8 x float> poison, float %v29, i64 0
  %v31 = shufflevector <8 x float> %v30, <8 x float> poison, <8 x i32> zeroinitializer
  %v32 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v31, <8 x float> %v18, <8 x float> %v7)
  %v33 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v31, <8 x float> %v23, <8 x float> %v8)
  %n.v4 = add nuw nsw i64 %i.v4, 1
  %p11.n = getelementptr i8, ptr %p11, i64 4
  %p17.n = getelementptr i8, ptr %p17, i64 64
  %p28.n = getelementptr i8, ptr %p28, i64 4
  %c.v4 = icmp slt i64 %n.v4, %a.K
  br i1 %c.v4, label %v4, label %v4.end
v4.end:
  %v34 = fcmp ogt <8 x float> splat (float 0x0000000000000000), %v21
  %v35 = select <8 x i1> %v34, <8 x float> splat (float 0x0000000000000000), <8 x float> %v21
  store <8 x float> %v35, ptr %p39, align 4
  %v40 = fcmp ogt <8 x float> splat (float 0x0000000000000000), %v24
  %v41 = select <8 x i1> %v40, <8 x float> splat (float 0x0000000000000000), <8 x float> %v24
  %p42 = getelementptr i8, ptr %p39, i64 32
  store <8 x float> %v41, ptr %p42, align 4
  %v43 = fcmp ogt <8 x float> splat (float 0x0000000000000000), %v32
  %v44 = select <8 x i1> %v43, <8 x float> splat (float 0x0000000000000000), <8 x float> %v32
  %p45 = getelementptr i8, ptr %p39, i64 64
  store <8 x float> %v44, ptr %p45, align 4
  %v46 = fcmp ogt <8 x float> splat (float 0x0000000000000000), %v33
  %v47 = select <8 x i1> %v46, <8 x float> splat (float 0x0000000000000000), <8 x float> %v33
  %p48 = getelementptr i8, ptr %p39, i64 96
  store <8 x float> %v47, ptr %p48, align 4
  %n.v3 = add nuw nsw i64 %i.v3, 1
  %p10.n = getelementptr i8, ptr %p10, i64 %v9
  %p27.n = getelementptr i8, ptr %p27, i64 %v9
  %p39.n = getelementptr i8, ptr %p39, i64 128
  %c.v3 = icmp slt i64 %n.v3, %v2
  br i1 %c.v3, label %v3, label %v3.end
v3.end:
  %n.v1 = add nuw nsw i64 %i.v1, 1
  %p16.n = getelementptr i8, ptr %p16, i64 %v13
  %p38.n = getelementptr i8, ptr %p38, i64 64
  %c.v1 = icmp slt i64 %n.v1, %end
  br i1 %c.v1, label %v1, label %v1.end
v1.end:
  ret void
}

define internal void @matmul.par0(ptr %env, i64 %begin, i64 %end) nounwind noinline optnone {
entry:
  %s0 = getelementptr i8, ptr %env, i64 0
  %e0 = load ptr, ptr %s0, align 8
  %s1 = getelementptr i8, ptr %env, i64 8
  %e1 = load ptr, ptr %s1, align 8
  %s2 = getelementptr i8, ptr %env, i64 16
  %e2 = load ptr, ptr %s2, align 8
  %s3 = getelementptr i8, ptr %env, i64 24
  %e3 = load i64, ptr %s3, align 8
  %s4 = getelementptr i8, ptr %env, i64 32
  %e4 = load i64, ptr %s4, align 8
  call void @matmul.loop0(ptr %e0, ptr %e1, ptr %e2, i64 %e3, i64 %e4, i64 %begin, i64 %end)
  ret void
}

define void @matmul(ptr %ctx, ptr noalias readonly %a.A, ptr noalias readonly %a.B, ptr noalias %a.C, i64 %a.M, i64 %a.K) nounwind noinline optnone {
entry:
  %v1 = alloca [5 x i64], align 16
  %v2 = getelementptr i8, ptr %v1, i64 0
  store ptr %a.A, ptr %v2, align 8
  %v3 = getelementptr i8, ptr %v1, i64 8
  store ptr %a.B, ptr %v3, align 8
  %v4 = getelementptr i8, ptr %v1, i64 16
  store ptr %a.C, ptr %v4, align 8
  %v5 = getelementptr i8, ptr %v1, i64 24
  store i64 %a.M, ptr %v5, align 8
  %v6 = getelementptr i8, ptr %v1, i64 32
  store i64 %a.K, ptr %v6, align 8
  %v7 = load ptr, ptr %ctx, align 8
  call void %v7(ptr %ctx, ptr @matmul.par0, ptr %v1, i64 1, i64 0)
  ret void
}
