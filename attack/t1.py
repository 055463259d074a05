# marks, both dialects
import sys; from lib import *
port=int(sys.argv[1]); db=sys.argv[2]
S=Server(port,db)
ann=token({"id":"ann","role":"user","tenantId":"t"}); boss=token({"id":"bob","role":"boss","tenantId":"t"})
n=0
def compare(label, mk, tok=ann, extra=None):
    """mk(variant)->(method,path,body,headers)"""
    a=req(port,*mk('u')[:2],body=mk('u')[2],tok=tok,headers=mk('u')[3])
    k=str(uuid.uuid4())
    b=req(port,*mk('k')[:2],body=mk('k')[2],tok=tok,headers=mk('k')[3],key=k)
    c=req(port,*mk('k')[:2],body=mk('k')[2],tok=tok,headers=mk('k')[3],key=k)
    print('==',label); print('  unkeyed',vis(a)); print('  keyed  ',vis(b)); print('  replay ',vis(c), c[1].get('idempotent-replayed'))
    if vis(b)!=vis(c): print('  !!! REPLAY DIFFERS')
    return a,b,c
for model in ('nameds','plains','secrets','secret-vs'):
  for mark in ('version','digest','key'):
    ids={'u':f'~cratestack-{mark}~u','k':f'~cratestack-{mark}~k'}
    compare(f'create {model} {mark}', lambda v: ('POST',f'/{model}',{"id":ids[v]},{}))
# made
for m in ('autos','auto-vs'):
    compare('create '+m, lambda v: ('POST','/'+m,{"text":"~cratestack-key~ ~cratestack-version~ ~cratestack-digest~ %s $1 \\ ' \" \u2028\u007f\u0001\b\f"},{}))
compare('dec', lambda v: ('POST','/decs',{"id":"15" if v=='u' else "-25"},{}))
compare('enum', lambda v: ('POST','/dec-us',{"id":"good" if v=='u' else "bad"},{}))
compare('tim', lambda v: ('POST','/tims',{"id":"2020-01-01T00:00:00+01:00" if v=='u' else "2021-01-01T00:00:00.5+01:00"},{}))
compare('byt', lambda v: ('POST','/byts',{"id":"0001-01-01" if v=='u' else "9999-12-31"},{}))
compare('pair', lambda v: ('POST','/pairs',{"a":"x/ü~\"","b":"2020-01-01T00:00:00+01:00" if v=='u' else "2021-01-01T00:00:00.5+01:00"},{}))
# hidden
u1,u2=str(uuid.uuid4()),str(uuid.uuid4())
compare('hid', lambda v: ('POST','/hids',{"id":u1 if v=='u' else u2.upper(),"n":"1"},{}))
compare('hid patch', lambda v: ('PATCH','/hids/'+(u1.upper() if v=='u' else u2.upper()),{"n":"1000"},{}))
compare('dec patch noncanon', lambda v: ('PATCH','/decs/'+('015' if v=='u' else '-025'),{"text":"q"},{}))
compare('empty patch', lambda v: ('PATCH','/decs/'+('15' if v=='u' else '-25'),{},{}))
t=time.time(); k=str(uuid.uuid4()); 
for i in range(3):
    t=time.time(); r=req(port,'PATCH','/decs/-25',{},key=k,tok=ann); print('empty patch',r[0],r[1].get('idempotent-replayed'),round(time.time()-t,3))
compare('unchanged patch', lambda v: ('PATCH','/decs/'+('15' if v=='u' else '-25'),{"text":"q"},{}))
compare('delete', lambda v: ('DELETE','/decs/'+('15' if v=='u' else '-25'),None,{}))
compare('restore', lambda v: ('POST','/decs/'+('15' if v=='u' else '-25')+'/restore',None,{}))
print(psql(db.rsplit('/',1)[1],"select op,model,primary_key,state,status from cratestack_idempotency order by created_at") if db.startswith('post') else '')
S.stop()
